"""Gates that find degenerate completions: loops, empty parts, damaged characters, other scripts, leaked mark-up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_parts import essays, flaw, measured

PROSE = (
    "A river carries sand from the mountains to the sea. Where the current slows down, the sand settles and builds a "
    "bank. Over the years the bank grows, until the water finds another way around it. Farmers know these banks well, "
    "since the soil on them is light and dries early in spring."
)
FAQ = (
    "Q: What is a queue?\nA: A queue is a list whose first element leaves first.\n\n"
    "Q: What is a stack?\nA: A stack is a list whose last element leaves first.\n\n"
    "Q: Which one does a printer use?\nA: A printer uses a queue."
)
TABLE = "| City | Rain | Snow |\n|---|---|---|\n| Oslo | yes | yes |\n| Lima | no | no |\n| Cairo | no | no |"
CODE = "Call it:\n\n```python\nfor x in xs:\n    print(x)\nfor y in ys:\n    print(y)\n```\n\nIt prints both lists."
SOUND = {"prose": PROSE, "faq": FAQ, "table": TABLE, "code": CODE, "steps": "# Plant a tree\n\n1. Dig.\n2. Water it."}
LINE = "Then the water finds another way around the bank."


@pytest.mark.parametrize(
    "loop",
    [
        f"{PROSE} {' '.join([LINE] * 3)}",
        f"{PROSE}\n" + "\n\n".join([LINE] * 9),
        f"{PROSE}\n" + "\n".join(f"{number}. {LINE}" for number in range(1, 9)),
        "\n".join([*FAQ.splitlines(), *["Q: Why?\nA: The answer is that nobody knows it."] * 5]),
        f"{PROSE} It is very very very very very very very old.",
        f"{PROSE} And so it went on and on and so it went on and on and so it went on and on and so it went on and on",
        f"{PROSE} www.example.org/{'-hatch' * 40}",
        f"{PROSE} {'ha' * 40}",
        f"{PROSE} {'!' * 90}",
        f"{PROSE} {'.' * 160}",
        PROSE + "\U0001f600 " * 40,
        "# Heading\n" + "\n\n".join("::" for _ in range(30)),
        "```\n" + "\n".join(f"# {number}." for number in range(30)),
        TABLE + "\n| Quito | no | no |" * 5,
        f"{LINE} {PROSE} {LINE} And more. {LINE} Then it rains. {LINE}",
        "雨が降ると川の水が増えます。" * 12,
    ],
)
def test_a_loop_is_found(loop: str) -> None:
    assert "repeats" in str(flaw("loops", loop))


@pytest.mark.parametrize(
    "text",
    [
        *SOUND.values(),
        *essays(20),
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "1, 1, 2, 3, 5, 8\n\n[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n\n0 0 0 0 0 0 0 0",
        "Title\n=====\n\n" + "-" * 70 + "\nText.\n" + "-" * 70 + "\nMore.\n" + "-" * 70,
        "- [ ] Write the code.\n- [ ] Write the tests.\n- [ ] Write the docs.\n- [ ] Ship it.",
        "\n".join(f"| {name} | yes | yes | yes | yes | yes | yes |" for name in ("one", "two", "three", "four")),
    ],
)
def test_sound_text_is_not_called_a_loop(text: str) -> None:
    assert flaw("loops", text) is None


def test_what_the_source_repeats_may_be_repeated() -> None:
    chorus = f"{PROSE}\n" + "\n".join([LINE] * 5)
    assert flaw("loops", chorus)
    assert flaw("loops", chorus, source=f"A song:\n{chorus}") is None
    assert flaw("loops", f"{chorus}\n" + "\n".join([LINE] * 9), source=chorus)


def test_a_loop_to_the_end_is_called_one_and_loops_are_counted_by_what_is_repeated() -> None:
    texts = [f"{PROSE}\n" + "\n".join([LINE] * 4), f"{PROSE} {' '.join([LINE] * 4)}", PROSE, FAQ]
    measurement, flaws = measured("loops", texts)
    assert flaws["d0"] == f"repeats a line: {LINE!r}, 4 times in a row to the end"
    assert (measurement.value, measurement.failing) == (0.5, 2)
    assert measurement.figures["flaws"] == {"repeats a line": 1, "repeats a sentence": 1}
    assert len(measurement.figures["compression_histogram"]) == 20


@settings(max_examples=25, deadline=None)
@given(
    phrase=st.lists(
        st.sampled_from(["alpha", "beta", "gamma", "delta", "eta", "mu"]), min_size=1, max_size=6, unique=True
    ),
    times=st.integers(1, 12),
    before=st.integers(0, 30),
)
def test_a_repeated_phrase_is_found_from_the_third_or_fourth_time(phrase: list[str], times: int, before: int) -> None:
    words = [f"word{n}" for n in range(before)] + phrase * times + ["end"]
    enough = 6 if len(phrase) == 1 else 4 if len(phrase) < 4 else 3
    assert (flaw("loops", " ".join(words)) is not None) == (times >= enough)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Fruit:\n\n- Apples\n- \n- Pears", "an empty list item: '-'"),
        ("1. Dig a hole.\n2.\n3. Water the tree.", "an empty list item: '2.'"),
        ("* One\n* **\n", "an empty list item: '* **'"),
        ("# Trees\n\n## Oaks\n\n## Elms\nElms are tall.", "a heading without a body: '## Oaks'"),
        ("# Trees\nThey are tall.\n\n## Elms\n", "a heading without a body: '## Elms'"),
        ("###\n\nText.\n", "an empty heading: '###'"),
        ("| A | B |\n|---|---|\n| 1 | 2 |\n|  |  |", "an empty table row"),
        ("| A | B |\n|---|---|\n| 1 |  |\n|  | 4 |", "empty table cells: 2 of 4"),
        ("| | A | B |\n|---|---|---|\n| Rain | yes | |\n| Snow | yes | no |", "empty table cells: 1 of 6"),
    ],
)
def test_an_empty_part_is_found(text: str, reason: str) -> None:
    assert flaw("empty_parts", text) == reason


@pytest.mark.parametrize(
    "text",
    [
        *SOUND.values(),
        "| | Oslo | Lima |\n|---|---|---|\n| Rain | yes | - |\n| Snow | yes | no |\n| Sun | no | yes |",
        "| | Oslo | Lima |\n|---|---|---|\n| Rain | x | |\n| Snow | x | x |\n| Sun | | x |",
        "1.\n\nA paragraph under its number.\n\n2.\n\nAnother one.",
        "```sh\n# only a comment\n# another\n```\nDone.",
        "Title\n*****\n\nPart\n-\nText.",
        "- Fruit\n  - Apples\n-\n  Pears on the next line",
    ],
)
def test_complete_text_has_no_empty_parts(text: str) -> None:
    assert flaw("empty_parts", text) is None


@pytest.mark.parametrize(
    "damaged",
    [
        "The caf\xc3\xa9 is open.",
        PROSE.replace(" ", " \u2019 ", 1).encode().decode("cp1252", "replace").replace("\ufffd", ""),
        "It\u00e2\u20ac\u2122s late.",
        "Lost \ufffd character.",
        "A bell \x07 rings.",
        "An escape \x1b[0m code.",
        "Half \ud83d of a pair.",
        "Привет".encode().decode("latin-1"),
        "你好吗".encode().decode("cp1252", "ignore"),
        "A smile: " + "\U0001f600".encode().decode("cp1252", "ignore"),
    ],
)
def test_damaged_characters_are_found(damaged: str) -> None:
    assert flaw("encoding", f"{PROSE} {damaged}")


@pytest.mark.parametrize(
    "text",
    [
        *SOUND.values(),
        "Ça coûte 3 € – l’hôtel « À la gare » est fermé. ÉCOLE, ÂGE, NOËL, São João, Ångström, ÍSLAND.",
        "Größe, Übermut, Łódź, Dvořák, Ðakovo, Øresund, Привет, 你好, عربي, 🔧\tπ ≈ 3.14 ™ © § ½",
    ],
)
def test_letters_with_accents_are_not_damage(text: str) -> None:
    assert flaw("encoding", text) is None


def test_mojibake_that_the_source_explains_is_not_damage_but_lost_characters_are() -> None:
    source = "A file that was decoded wrongly shows Ã© for é, and \ufffd for what is lost."
    assert flaw("encoding", "It shows Ã© for é.", source=source) is None
    assert flaw("encoding", "It shows \ufffd.", source=source)


def test_a_word_in_a_script_that_the_source_does_not_use_is_found() -> None:
    assert flaw("other_script", "The 模型 reads it.", source=PROSE) == (
        "Chinese characters, which the source does not use: '模型 reads it.'"
    )
    assert "Cyrillic" in str(flaw("other_script", "The модель reads it.", source=PROSE))
    assert flaw("other_script", "The 模型 reads it.", source="模型 means model.") is None
    assert flaw("other_script", "The angle α, and π ≈ 3; naïve café Łódź ™ → 🔧", source=PROSE) is None


@pytest.mark.parametrize(
    "leak",
    [
        "<|im_start|>assistant\n", "Text.<|im_end|>", "<|endoftext|>", "[INST] A. [/INST]", "<<SYS>>", "<think>\nSo",
        "Done.</think>", "<start_of_turn>model", "Text.</s>", "### Response:\nText", "assistant\nText", "Human: And?",
        "**Assistant:** Text", "<\uff5cUser\uff5c>",
    ],
)  # fmt: skip
def test_leaked_mark_up_of_a_chat_template_is_found(leak: str) -> None:
    assert "mark-up of a chat template" in str(flaw("chat_markup", f"{PROSE}\n{leak}"))
    assert flaw("chat_markup", f"{PROSE}\n{leak}", source=f"In a template stands:\n{leak}\n.") is None


@pytest.mark.parametrize(
    "text",
    [
        *SOUND.values(),
        "a <= b | c >= d\nx = y[0] | z\n<s>struck</s> <a href='#'>links</a>\n## Input\nThe assistant helps.",
    ],
)
def test_other_mark_up_is_not_that_of_a_chat_template(text: str) -> None:
    assert flaw("chat_markup", text) is None


def test_in_a_dialogue_an_assistant_may_speak() -> None:
    text = "Assistant: How are you?\nAda: Fine, and you?\nAssistant: Well.\nAda: Good."
    assert flaw("chat_markup", text)
    assert flaw("chat_markup", text, check="dialogue") is None


STEPS = "# Bake\n\n1. Mix the flour with water.\n2. Let the dough rest for a night.\n3. {}"


@pytest.mark.parametrize(
    "text",
    [
        f"{PROSE} Then the farmers who live near the river come with",
        f"{PROSE} They sow early, and",
        f"{PROSE}\n\nIn summer the banks are dry and the farmers dig small",
        STEPS.format("Bake the bread in the oven until the crust is"),
        f"{FAQ}\n\nQ: What do other machines use?\nA: Other machines use both, for example a compiler which",
        "| A | B |\n|---|---|\n| 1 | 2 |\n| 3 | fo",
    ],
)
def test_a_text_without_finish_reason_that_ends_within_a_sentence_is_cut_off(text: str) -> None:
    assert "ends within" in str(flaw("truncated", text))
    assert flaw("truncated", text, finish_reason="stop") is None
    assert flaw("truncated", text, finish_reason="length") == "cut off at max_tokens"


@pytest.mark.parametrize(
    "text",
    [
        *SOUND.values(),
        STEPS.format("Bake it."),
        f"{PROSE}\n\n- Sand\n- Water\n- The farmers of the river and their children",
        f"{PROSE}\n\n## See also",
        f"{PROSE} See https://example.org/the/pages/of/the/river",
        f"{PROSE}\n\nAuthor: Ida Berg of the river museum in the old town",
        "A title of several words that is all there is of the text",
        "Answer: 12 apples and 3 pears are left in the basket",
    ],
)
def test_a_complete_text_without_finish_reason_is_not_cut_off(text: str) -> None:
    assert flaw("truncated", text) is None
