"""Gates that find completions that do not do what the prompt asks: echoes, announcements, refusals, wrong lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_parts import essays, flaw, measured, train_fasttext
from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompt
from finephrase_dagster.study.turns import PLACEHOLDER
from test_degeneration import CODE, FAQ, PROSE, SOUND

PROMPTS = {path.stem: read_prompt(path) for path in (SHIPPED / "prompts").glob("[!R]*.md")}
TEMPLATES = {name: prompt.template.replace(PLACEHOLDER, "").strip() for name, prompt in PROMPTS.items()}
TUTORIAL = (
    "# Bake bread at home\n\n1. Mix 500 g of flour with water and salt, since they need time.\n2. Let the dough rest "
    "overnight below a cloth. Use what you have at hand; the given times are for a warm kitchen.\n3. Bake it for 40 "
    "minutes. Here is a tip: listen to the crust. When it cools, it crackles.\n\nKeep the bread in a paper bag."
)
OTHERS = [
    *SOUND.values(),
    TUTORIAL,
    "I hope that spring comes early, the farmer said. Sure, it will, said his wife. Here are the seeds.",
    "# Write a letter\n\n1. Write the date at the top.\n2. Answer the questions of the last letter.\n3. Use ink.",
    "Of course the following winter was hard. Below is the valley, above is the mountain.",
    "Read the text below the map. Never add anything to the soup. The task is to find the key.",
    "My view is milder: a fence like this helps the sheep. Let me know when it is mended, she wrote.",
    "To convert the document into another format, open it and choose Export. The article explains it with an example.",
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_that_is_given_back_is_found_whole_or_in_part(name: str) -> None:
    sentences = [one for one in TEMPLATES[name].replace("\n", " ").split(". ") if len(one.split()) >= 5]
    for echo in (TEMPLATES[name], sentences[0], sentences[-1], TEMPLATES[name].upper(), " ".join(sentences[-2:])):
        assert flaw("prompt_echo", f"{PROSE}\n\n{echo}"), echo
        assert flaw("prompt_echo", f"{echo}\n{FAQ}"), echo


@pytest.mark.parametrize(
    "instruction",
    [
        "Rewrite the text above so that a child understands it.",
        "Please summarize the following article in three sentences.",
        "Turn the passage below into a table.",
        "Based on what you know, answer.\nCreate a FAQ from the document above.",
        "Respond only with the table.",
        "Do not include any explanations.",
        "You are a helpful assistant.",
        "Return nothing but the tutorial.",
        "No further comments should be added.",
        "Never add anything before or after the table.",
        "Your job is to write a FAQ.",
        "The response must be only a summary.",
        "Ensure that it makes sense without having read the article.",
        "The instruction says: use only facts from the passage.",
        "[Insert table here]",
        "The article should be based on the passage alone.",
        "You will receive a passage.",
        "Your task is to rewrite the text.",
        "Summarize this article.",
        "Generate five questions with answers from the text.",
        "Below is an instruction that describes a task.",
        "<|im_start|>user",
        "**Instruction**: [[DOCUMENT]]",
        "Here comes {document}",
    ],
)
def test_a_generic_instruction_is_found(instruction: str) -> None:
    assert flaw("prompt_echo", f"{instruction}\n\n{PROSE}")
    assert flaw("prompt_echo", f"{PROSE}\n\n{instruction}")


ANSWER = "**May I use a text generator?**\nYes, for finding ideas, checking spelling and translating sources."


@pytest.mark.parametrize("text", [ANSWER, *OTHERS, *essays(10)])
def test_sound_text_is_no_echo_no_announcement_and_no_refusal(text: str) -> None:
    assert [flaw(gate, text) for gate in ("prompt_echo", "announcements", "refusals")] == [None, None, None]


def test_a_prompt_of_ones_own_is_known_from_the_manifest_and_what_the_source_says_is_no_echo() -> None:
    template = "[[DOCUMENT]]\n\nCompose seven limericks about whatever the villagers above complain of."
    dataset = AuditedDataset(files=[], manifest={"recipe": {"prompt": {"template": template, "system": None}}})
    gate = gates()["prompt_echo"]
    measure = gate.measure(dataset, gate.defaults)
    echo = f"{PROSE} Compose seven limericks about whatever the villagers above complain of."
    assert "seven limericks" in str(measure.flaw(AuditedRow("a", echo)))
    assert measure.flaw(AuditedRow("a", echo, source_text=echo)) is None
    assert flaw("prompt_echo", echo) is None


@pytest.mark.parametrize(
    "text",
    [
        "Sure! {}",
        "Certainly, here is the text:\n\n{}",
        "Here is a table of the key facts:\n\n{}",
        "Here's a rewritten version of the text\n\n{}",
        "**Here are the questions and answers:**\n\n{}",
        "Below is a short tutorial on the subject.\n\n{}",
        "I have rewritten the passage in plain words:\n{}",
        "Okay, I will summarize the article.\n{}",
        "Based on the text, here are five questions.\n{}",
        "I'd be happy to help.\n\n{}",
        "**Improved article**\n\n{}",
        "Revised tutorial:\n\n{}",
        "## FAQ based on the given document\n\n{}",
        "I was asked to write an article about the text.\n\n{}",
        "{}\n\n(End of table)",
        "{}\n\nWould you like another table?",
        "{}\n\nWhat I changed:\n\n- The order of the steps",
        "{}\n\nWord count: 96",
        "{}\n\n[Note: Two sentences were left out for brevity.]",
        "{}\n\n*This explanation was produced from the passage above.*",
        "{}\n\nIf anything remains unclear, please ask me.",
        "{}\n\nI hope this helps!",
        "{}\n\nLet me know if you need anything else.",
        "{}\n\nFeel free to ask if you have questions.",
        "{}\n\nNote: This table was created from the provided text.",
        "{}\n\nThe above table covers the main facts.",
        "{}\n\nWould you like me to add more questions?",
    ],
)
@pytest.mark.parametrize("content", [PROSE, FAQ, SOUND["table"], TUTORIAL], ids=["prose", "faq", "table", "tutorial"])
def test_talk_to_the_user_around_the_content_is_found(text: str, content: str) -> None:
    announced = text.format(content)
    assert "talks to the user" in str(flaw("announcements", announced))
    assert flaw("announcements", announced, source=f"A chat.\n{announced}") is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I am unable to rewrite this text.",
        "As an AI language model, I do not have opinions.",
        "I’m sorry, I can’t help with that.",
        "Unfortunately, I cannot provide a table, since the document has no facts.",
        "I don't have access to the document.",
        "Please provide the text that you would like me to rewrite.",
        "It seems you forgot to include the article.",
        "You haven't provided any text.",
        "I'm ready to help. What would you like to know?",
        "This passage cannot be turned into a table, as it names no facts.",
        "No questions can be made from this article.",
        "What should I do with this text?",
        "No document provided.",
        "N/A",
        "Insufficient information for an article.",
        "The passage is too short to be turned into a table.",
    ],
)
def test_a_refusal_is_found(text: str) -> None:
    assert "refuses" in str(flaw("refusals", text))


@pytest.mark.parametrize(
    "text",
    [
        "\"I'm sorry, but I can't come to the feast,\" said the fox.",
        "I cannot say that the book is bad. I am not able to judge poems.",
        'Its answer was "I cannot help with that request", which amused us.',
        "Unfortunately, I could not swim across the lake.",
        "Q: Can a stone float?\nA: It cannot, unfortunately. Please provide your own boat.",
        CODE,
    ],
)
def test_regret_is_no_refusal(text: str) -> None:
    assert flaw("refusals", text) is None


def test_wordings_that_no_rule_was_written_from_are_mostly_told_from_sound_sentences() -> None:
    lines = (Path(__file__).parent / "wordings.txt").read_text("utf-8").splitlines()
    wordings = [(kind, text) for kind, _, text in (line.partition(": ") for line in lines)]
    for gate, kinds, most_missed in (("announcements", ("before", "after"), 8), ("refusals", ("refusal",), 5)):
        missed = [
            text
            for kind, text in wordings
            if kind in kinds and not flaw(gate, f"{PROSE}\n\n{text}" if kind == "after" else f"{text}\n\n{PROSE}")
        ]
        alarms = [
            text
            for kind, text in wordings
            if kind == "sound" and (flaw(gate, f"{text} {PROSE}") or flaw(gate, f"{PROSE}\n\n{text}"))
        ]
        assert len(missed) <= most_missed, missed
        assert len(alarms) <= 1, alarms


def test_lengths_are_compared_with_the_source() -> None:
    source = " ".join(["word"] * 300)
    assert flaw("length", "Only a few words.", source=source) == "too short: 4 words from a source of 300"
    assert flaw("length", "Only a few words.", source="A short source of eight words, no more.") is None
    assert flaw("length", "word " * 40, source=source * 20) is None
    assert flaw("length", "word " * 2000, source=source) == "too long: 2000 words from a source of 300"
    assert flaw("length", "word " * 600, source="A short source.") is None
    assert flaw("length", "word " * 17, source=source)
    assert flaw("length", "word " * 17, source=source, check="math") is None


def test_the_compression_of_a_dataset_is_a_figure() -> None:
    gate = gates()["length"]
    rows = [AuditedRow(f"d{n}", "word " * 50 * n, source_text="word " * 100) for n in (1, 2, 4)]
    one, first, second = (gate.measure(AuditedDataset(files=[]), gate.defaults) for _ in range(3))
    one.add(rows)
    first.add(rows[:1])
    second.add(rows[1:])
    first.merge(second)
    assert first.result() == one.result()
    assert one.result().figures["compression"] == pytest.approx(350 / 300)
    assert sum(one.result().figures["ratio_histogram"]["counts"]) == 3


@pytest.mark.parametrize("gate", ["loops", "prompt_echo", "announcements", "refusals", "empty_parts", "encoding"])
def test_several_processes_count_as_one_does(gate: str) -> None:
    texts = [
        *OTHERS,
        "Sure! " + PROSE,
        "I can't help with that.",
        "Done.\n" * 9,
        "Rewrite the text above.",
        "1.\n2.\n",
        "\x07",
    ]
    one = measured(gate, texts)
    assert one[1]
    for parts, chunk in ((2, 3), (5, 1)):
        several = measured(gate, texts, parts=parts, chunk=chunk)
        assert (several[0].value, several[0].figures, several[1]) == (one[0].value, one[0].figures, one[1])


ENGLISH = PROSE
LANGUAGES = {
    "de": "Der Fluss trägt Sand von den Bergen bis zum Meer. Wo die Strömung nachlässt, setzt er sich ab.",
    "fr": "La rivière porte le sable des montagnes jusqu'à la mer. Quand le courant faiblit, il se dépose.",
    "es": "El río lleva la arena desde las montañas hasta el mar. Donde la corriente es lenta, se deposita.",
    "it": "Il fiume porta la sabbia dalle montagne fino al mare. Dove la corrente rallenta, essa si posa.",
    "nl": "De rivier voert zand mee van de bergen naar de zee. Waar de stroming zwakker wordt, blijft het liggen.",
    "pt": "O rio leva a areia das montanhas até ao mar. Onde a corrente enfraquece, ela deposita-se no fundo.",
    "pl": "Rzeka niesie piasek z gór aż do morza. Gdzie prąd słabnie, piasek osiada i tworzy mieliznę.",
    "sv": "Floden för med sig sand från bergen till havet. Där strömmen blir svagare lägger den sig på botten.",
    "ru": "Река несёт песок с гор к морю. Там, где течение слабеет, он оседает и образует отмель.",
    "ja": "川は山から海へ砂を運びます。流れが遅くなるところでは、砂がたまって岸ができます。",
    "zh": "河流把沙子从山上带到大海。在水流变慢的地方，沙子沉积下来，形成沙洲。",
    "ar": "يحمل النهر الرمال من الجبال إلى البحر. وحيث يضعف التيار تترسب الرمال وتتكون ضفة.",
    "tr": "Nehir, dağlardan denize kadar kum taşır. Akıntının yavaşladığı yerde kum dibe çöker ve birikir.",
    "fi": "Joki kuljettaa hiekkaa vuorilta mereen. Siellä missä virta hidastuu, hiekka laskeutuu pohjaan.",
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_another_language_than_that_of_the_source_is_found_in_both_directions(language: str) -> None:
    foreign = LANGUAGES[language]
    assert flaw("language", foreign, source=ENGLISH) == f"in another language: {language} in place of en"
    assert flaw("language", ENGLISH, source=foreign) == f"in another language: en in place of {language}"
    assert flaw("language", f"# Sand\n\n1. {foreign}\n2. `x = 1`", source=ENGLISH)
    assert flaw("language", foreign, source=f"{foreign} {foreign}") is None
    assert flaw("language", foreign, source=ENGLISH, language=language) is None
    assert flaw("language", ENGLISH, source=ENGLISH, language=language)


@pytest.mark.parametrize(
    "text",
    [
        *OTHERS,
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "```python\nimport os\nfor x in range(10):\n    print(os.path.join(a, x))\n```",
        "- Müller\n- García\n- Łukasz\n- São Paulo\n- Köln",
        "pip install foo-bar\nfoo --bar=baz https://example.org/de/seite",
        "Yes.",
        "The German word Schadenfreude means joy at the misfortune of others; the French say joie maligne.",
        "A bell \x07 rings, half \ud83d of a pair is there, and all of it stays an English sentence.",
    ],
)
def test_code_names_and_short_texts_are_not_another_language(text: str) -> None:
    assert flaw("language", text, source=ENGLISH) is None
    assert flaw("language", text, language="en") is None


def test_one_short_sentence_shows_its_language() -> None:
    for short in ("El perro corre por el parque todos los días.", "Dies ist eine kurze Antwort auf die Frage."):
        assert flaw("language", short, source=ENGLISH), short


def test_without_sources_most_rows_say_what_is_expected() -> None:
    texts = [*essays_of(PROSE, 8), LANGUAGES["de"], LANGUAGES["ru"], "Yes."]
    one, flaws = measured("language", texts)
    assert flaws == {
        "d8": "in another language: de in place of en",
        "d9": "in another language: ru in place of en",
    }
    assert (one.failing, one.figures["languages"]) == (2, {"en": 8, "de": 1, "ru": 1, "unknown": 1})
    for parts, chunk in ((2, 3), (5, 1)):
        assert measured("language", texts, parts=parts, chunk=chunk) == (one, flaws)


def test_a_fasttext_model_by_path_takes_the_place_of_the_packaged_detector(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(f"__label__de {LANGUAGES['de']}\n__label__en {PROSE}\n" * 60)
    model = train_fasttext(tmp_path / "lines.txt", tmp_path / "model.bin")
    assert flaw("language", LANGUAGES["de"], source=PROSE, model=model) == "in another language: de in place of en"
    assert flaw("language", PROSE, language="en", model=model) is None
    with pytest.raises(FinephraseError, match=r"language.model: .*lines.txt is not the file of a fastText model"):
        flaw("language", PROSE, model=str(tmp_path / "lines.txt"))


def essays_of(text: str, count: int) -> list[str]:
    """Return texts that differ in a number only."""
    return [f"{number}. {text}" for number in range(count)]
