"""The form of completions: what each check asks for, and what breaks it."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.audit.forms import MOST_PAIRS, form_flaw, has_form
from finephrase_dagster.study.prompt import Check

FAQ = "Q: What is a queue?\nA: A queue keeps items in order.\n\nQ: Who uses it?\nA: Schedulers use it."
MATH = (
    "Problem: A page has 3 parts of 4 lines each and 2 lines more. How many lines has it?\n\n"
    "Solution:\n3 x 4 = 12\n12 + 2 = 14\n\nAnswer: 14 lines"
)
TABLE = "| Part | Lines |\n| --- | ---: |\n| head | 3 |\n| body | 9 |\n\nQ: How long is the body?\nA: 9 lines."
TUTORIAL = "# Sort a list\n\n1. Make a list. You need something to sort.\n2. Call sort on it. It works in place."
PAIR = "Q: Which one sorts in place? (a) sort (b) sorted\nA: (a) sort"
LIST = "- A queue keeps items in order.\n- A stack gives back the last item first."
DIALOGUE = "Ida: What is a queue?\nOle: It keeps order.\n\nIda: Like a line of people?\nOle: Just like that."
WHOLE = {
    "faq": FAQ,
    "math": MATH,
    "table": TABLE,
    "tutorial": TUTORIAL,
    "qa_pairs": PAIR,
    "list": LIST,
    "dialogue": DIALOGUE,
    "paragraphs": '# Queues\n\nA queue keeps items in order. It is fair.\n\nA stack is not: "last in, first out."',
    "prose": "One sentence.",
}
ALSO = {"faq": {"faq", "qa_pairs", "dialogue"}}
"""Where one form is a case of others: a FAQ is also questions with answers, and Q and A take turns."""

phrase = st.text(st.characters(categories=("L",)), min_size=1, max_size=12)


def test_every_check_that_a_prompt_may_name_has_a_rule() -> None:
    assert set(WHOLE) == set(get_args(Check))


@pytest.mark.parametrize("format", WHOLE)
def test_a_completion_that_follows_the_prompt_has_the_form(format: str) -> None:
    assert form_flaw(format, WHOLE[format]) is None
    assert has_form(format, f"\n{WHOLE[format]}\n\n")


@pytest.mark.parametrize("format", [format for format in WHOLE if format != "prose"])
def test_a_completion_of_another_format_does_not_have_the_form(format: str) -> None:
    others = {other for other, text in WHOLE.items() if format in ALSO.get(other, {other})}
    assert {other for other, text in WHOLE.items() if has_form(format, text)} == others


@pytest.mark.parametrize("format", WHOLE)
@pytest.mark.parametrize("text", ["", " \n\t\n", "**", "#"])
def test_an_empty_completion_does_not_have_the_form(format: str, text: str) -> None:
    assert not has_form(format, text)


@pytest.mark.parametrize("format", [format for format in WHOLE if format not in ("paragraphs", "prose")])
def test_an_announcement_before_or_after_breaks_the_form(format: str) -> None:
    assert not has_form(format, f"Here is what you asked for:\n\n{WHOLE[format]}")
    if format != "tutorial":  # a last step may have paragraphs of its own
        assert not has_form(format, f"{WHOLE[format]}\n\nI hope that this helps.")


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("faq", "**Q:** What is it?\n**A:** A queue.\n**Q:** Whose?\n**A:** Ours."),
        ("faq", "**Q: What is it?**\nA: A queue.\n\n**Q: Whose?**\nA: Ours."),
        ("faq", "Q1: What is it?\nA1: A queue.\nQ2: Whose?\nA2: Ours."),
        ("faq", "Q: What is it?\nA: A queue:\n\n- first in\n- first out\n\nQ: Whose?\nA: Ours."),
        ("math", "**Problem:** 2 of 3 are gone. How many stay?\n\n**Solution:**\n\n3 - 2 = 1\n\n**Answer:** 1"),
        ("math", "### Problem:\nOf 3, 2 go.\n\n### Solution:\n1. 3 - 2 = 1\n\n### Answer:\n1"),
        ("math", "Problem: Of 3 cats,\nProblem: 2 go. How many stay?\nSolution: 3 - 2 = 1\nAnswer: 1 cat"),
        ("table", "Part | Lines\n--- | ---\nhead | 3\nQ: How long is it?\nA: 3"),
        ("table", "|a|b|c|\n|:-|:-:|-:|\n|1|a \\| b||\n\n**Q:** What is b?\n**A:** a or b"),
        ("tutorial", "**Sort a list**\n\n**Step 1:** Make one.\n\n**Step 2:** Sort it."),
        ("tutorial", "Sort a list\n===========\n\n1) Make one.\n2) Sort it."),
        ("qa_pairs", "**Question 1:** Is it one?\n**Answer:** Yes.\n\n**Question 2:** Why?\n**Answer:** It is."),
        ("qa_pairs", "1. Q: Is it one?\n   A: Yes.\n2. **Q:** Which?\n   (a) this\n   (b) that\n   **A:** (b)"),
        ("qa_pairs", "- Q: Which steps?\n- A: These:\n1. Ask\n2. Answer"),
        ("list", "1. **Queue**: in order.\n2) **Stack**: last first.\n\n10. Heap: least first."),
        ("list", "* One fact\n  that goes on.\n\n  And on.\n* Another fact\ngoes on, too.\n    - a detail"),
        ("list", "\u2022 One\n\u2022 Two"),
        ("list", "-\n  One\n- Two"),
        ("table", "| | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | |\n\nQ: What?\nA: It."),
        ("paragraphs", "\u6811\u5f88\u9ad8\u3002\u5b83\u4eec\u5f88\u8001\u3002"),
        (
            "paragraphs",
            "Trees are tall.\n\nNote: they are old.\n\n\u201cSo am I!\u201d said Ida (she was nine). Was she?",
        ),
        ("dialogue", "**Ida:** What?\n**Ole:** That.\n**Ida:** Why?\n**Ole:** So."),
        ("dialogue", "Dr. Ida Berg-Li (smiling): What?\nStudent 1:\nThat.\nDr. Ida Berg-Li: Why?\nStudent 1: So."),
        ("dialogue", "\u674e: \u4ec0\u4e48\n\u738b: \u8fd9\n\u674e: \u597d\n\u738b: \u597d"),
        ("dialogue", "Ida: What?\nOle: See\nhttps://example.org and\nremember this: it is.\nIda: Why?\nOle: So."),
        ("tutorial", "## Sort\n\nShort.\n\n### 1. Make one\n\nWhy.\n\n### 2. Sort it\n\n   1. nested\n   2. list"),
    ],
)
def test_markdown_marks_do_not_break_the_form(format: str, text: str) -> None:
    assert form_flaw(format, text) is None


@pytest.mark.parametrize(
    ("format", "text", "flaw"),
    [
        ("faq", "Q: What is it?\nA: A queue.", "fewer than two"),
        ("faq", "Q: What?\nQ: Who?\nA: It.\nA: We.", "do not alternate"),
        ("faq", "Q: What?\nA: It.\nQ: Who?", "do not alternate"),
        ("faq", "Q: What?\nA:\nQ: Who?\nA: We.", "an empty answer"),
        ("faq", "Q:\nA: It.\nQ: Who?\nA: We.", "an empty question"),
        ("math", "Problem: Of some, 2 go.\nSolution: none\nAnswer: 1", "no number in the solution"),
        ("math", "Problem: Some go.\nSolution: 3 - 2 = 1\nAnswer: 1", "no number in the problem"),
        ("math", "Problem: 2 go.\nSolution: 3 - 2 = 1\nAnswer: one", "no number in the answer"),
        ("math", "Problem: 2 go.\nAnswer: 1\nSolution: 3 - 2 = 1", "in this order"),
        ("math", "Problem: 2 go.\nSolution: 3 - 2 = 1", "in this order"),
        ("math", "Problem: 2.\nSolution: 1\nAnswer: 1\nProblem: 2.\nSolution: 1\nAnswer: 1", "in this order"),
        ("table", "| a | b |\n| --- | --- |\n\nQ: What?\nA: It.", "no header, separator and row"),
        ("table", "| a | b |\n| 1 | 2 |\n| 3 | 4 |\n\nQ: What?\nA: It.", "no separator row"),
        ("table", "| a | b |\n| --- | --- |\n| 1 |\n\nQ: What?\nA: It.", "different numbers of cells"),
        ("table", "| a | b |\n| --- |\n| 1 | 2 |\n\nQ: What?\nA: It.", "different numbers of cells"),
        ("table", "| a | b |\n| --- | --- |\n| 1 | 2 | 3 |\n\nQ: What?\nA: It.", "different numbers of cells"),
        ("table", "| a |\n| --- |\n| 1 |\n\nQ: What?\nA: It.", "fewer than two columns"),
        ("table", "| a | b |\n| --- | --- |\n| | |\n\nQ: What?\nA: It.", "an empty row"),
        ("table", "| a | b |\n| --- | --- |\n| 1 | 2 |\n|  |  |\n\nQ: What?\nA: It.", "an empty row"),
        ("table", "| a | b |\n| --- | --- |\n| 1 |  |\n| 2 |  |\n\nQ: What?\nA: It.", "an empty column"),
        ("table", "| a |  |\n| --- | --- |\n| 1 | 2 |\n\nQ: What?\nA: It.", "a column without a title"),
        ("paragraphs", "Trees are tall. They are old.\n\n- Oak\n- Elm", "a list"),
        ("paragraphs", "Trees are tall. They are old.\n| a | b |\n|---|---|", "a table"),
        ("paragraphs", "Ida: Trees are tall.\nOle: They are old.", "labelled lines"),
        ("paragraphs", "Only one sentence.", "fewer than two sentences"),
        ("table", "| a | b |\n| --- | --- |\n| 1 | 2 |", "no question below"),
        ("table", "| a | b |\n| --- | --- |\n| 1 | 2 |\nQ: What?", "not one question and one answer"),
        ("table", "| a | b |\n| --- | --- |\n| 1 | 2 |\nof it\nQ: What?\nA: It.", "begins with something other"),
        ("table", f"{TABLE}\nQ: Again?\nA: No.", "not one question and one answer"),
        ("qa_pairs", "It is this.\nQ: What?\nA: It.", "begins with something other than its question"),
        ("qa_pairs", "A: It.\nQ: What?", "do not alternate"),
        ("qa_pairs", "Q: What?", "do not alternate"),
        ("qa_pairs", "Q: What?\nA:", "an empty answer"),
        ("qa_pairs", "\n".join(["Q: What?\nA: It."] * 9), "more than 8 questions"),
        ("qa_pairs", "Q: What?\nA: It.\n\nI hope that this helps.", "text after the last answer"),
        ("list", "# Facts\n- One\n- Two", "begins with something other than an item"),
        ("list", "- One", "fewer than two items"),
        ("list", "- One\n-\n- Three", "an empty item"),
        ("list", "- One\n\nMore:\n\n- Two", "between or after"),
        ("list", "**One** is first\n**Two** is next", "begins with something other"),
        ("dialogue", "A talk\nIda: What?\nOle: It.\nIda: Why?\nOle: So.", "something other than a speaker"),
        ("dialogue", "Ida: What?\nIda: It.\nIda: Why?\nIda: So.", "fewer than two speakers"),
        ("dialogue", "Ida: What?\nOle: It.", "fewer than two speakers"),
        ("dialogue", "Claim: one\nReason: two\nResult: three\nSource: four", "fewer than two speakers"),
        ("dialogue", "Ida: What?\nOle: It.\nOle: Again.\nIda: Why?", "twice in a row"),
        ("dialogue", "Ida: What?\nOle:\nIda: Why?\nOle: So.", "an empty speech"),
        ("tutorial", "1. Make one.\n2. Sort it.", "no heading"),
        ("tutorial", "Sort a list\n\n1. Make one.\n2. Sort it.", "no heading"),
        ("tutorial", "# Sort\n\n1. Make one.", "fewer than two numbered steps"),
        ("tutorial", "# Sort\n\n- Make one.\n- Sort it.", "fewer than two numbered steps"),
        ("tutorial", "# Sort\n\n1. Make one.\n3. Sort it.", "out of order"),
        ("tutorial", "# Sort\n\n1. Make one.\n1. Sort it.", "out of order"),
        ("tutorial", "# Sort\n\n1.\n2. Sort it.", "an empty step"),
    ],
)
def test_a_missing_part_is_named(format: str, text: str, flaw: str) -> None:
    assert flaw in (form_flaw(format, text) or "")


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(KeyError):
        has_form("poem", "Roses are red.")


@given(st.lists(st.tuples(phrase, phrase), max_size=6))
def test_two_or_more_questions_with_answers_are_a_faq(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(f"Q: {question}?\nA: {answer}." for question, answer in pairs)
    assert has_form("faq", text) == (len(pairs) >= 2)


@given(st.lists(st.tuples(phrase, phrase), max_size=12))
def test_one_to_eight_questions_with_answers_are_pairs(pairs: list[tuple[str, str]]) -> None:
    text = "\n\n".join(f"Q: {question}?\nA: {answer}." for question, answer in pairs)
    assert has_form("qa_pairs", text) == (1 <= len(pairs) <= MOST_PAIRS)


@given(st.lists(phrase, max_size=6), st.sampled_from(["- ", "* ", "1. ", "12) ", "  - "]))
def test_two_or_more_marked_lines_are_a_list(items: list[str], mark: str) -> None:
    assert has_form("list", "\n".join(mark + item for item in items)) == (len(items) >= 2)


@given(st.lists(st.sampled_from(["Ida", "Ole", "Uwe"]), max_size=8))
def test_speakers_of_a_dialogue_alternate_and_two_speak_twice(speakers: list[str]) -> None:
    alternate = all(one != other for one, other in pairwise(speakers))
    back = {speaker for speaker in speakers if speakers.count(speaker) > 1}
    text = "\n".join(f"{speaker}: Yes." for speaker in speakers)
    assert has_form("dialogue", text) == (alternate and len(back) >= 2)


@given(
    st.integers(2, 5).flatmap(
        lambda width: st.lists(st.lists(phrase, min_size=width, max_size=width), min_size=2, max_size=6)
    ),
    st.data(),
)
def test_all_rows_of_a_table_have_as_many_cells_as_its_header(rows: list[list[str]], data: st.DataObject) -> None:
    def written(cells: list[list[str]]) -> str:
        separator = ["---"] * len(cells[0])
        lines = ["| " + " | ".join(row) + " |" for row in (cells[0], separator, *cells[1:])]
        return "\n".join([*lines, "", "Q: What?", "A: It."])

    assert form_flaw("table", written(rows)) is None
    index = data.draw(st.integers(1, len(rows) - 1))
    assert not has_form("table", written([*rows[:index], [*rows[index], "x"], *rows[index + 1 :]]))


@given(st.permutations(range(1, 6)), st.integers(2, 5))
def test_steps_count_up_from_one(order: list[int], size: int) -> None:
    numbers = order[:size]
    text = "\n".join(["# Heading", "", *(f"{number}. Do it." for number in numbers)])
    assert has_form("tutorial", text) == (numbers == sorted(numbers) and numbers[-1] == size)


@given(st.sampled_from(sorted(WHOLE)), st.text())
def test_every_text_is_judged_without_an_error(format: str, text: str) -> None:
    assert has_form(format, text) == (form_flaw(format, text) is None)
