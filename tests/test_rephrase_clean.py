"""Cleaning: each rule removes what surrounds the content and keeps the content."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.rephrase.clean import (
    RULES,
    clean,
    is_unfinished_thought,
    strip_announcement,
    strip_fence,
    strip_thought,
)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("<think>Let me see.\nYes.</think>\nThe answer.", "\nThe answer."),
        ("\n<thinking>a plan</thinking>The answer.", "The answer."),
        ("[THINK]Step 1.[/THINK]The answer.", "The answer."),
        ("analysisThe reader wants a table.assistantfinal| a |", "| a |"),
        ("Nothing to think about.", "Nothing to think about."),
    ],
)
def test_a_thought_before_the_content_is_removed(raw: str, cleaned: str) -> None:
    assert strip_thought(raw) == cleaned


@pytest.mark.parametrize(
    "content",
    [
        "A <think>x</think>B <think>y</think>C",
        "The template ends with `</think>`.",
        "First comes\n</think>\nand then the answer.",
        "The tag <think> has no end here.",
        "<think> opens a block of thoughts in the output of some models.",
        "<thinking>never closed by </think>",
        "analysis of variance compares the means of groups, assistantfinal or not.",
    ],
)
def test_a_tag_in_the_prose_stays(content: str) -> None:
    assert clean(content) == (content, ())


def test_a_thought_that_does_not_end_is_recognized() -> None:
    assert is_unfinished_thought("<think>I never come to an end")
    assert not is_unfinished_thought("<think>Short.</think>The answer.")
    assert not is_unfinished_thought("The tag <think> has no end here.")


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Here is the table:\n\n| a | b |", "| a | b |"),
        ("Sure! Here's a tutorial on engines:\n1. Begin.", "1. Begin."),
        ("Certainly, here are the questions:\nQ: Why?", "Q: Why?"),
        ("**Here is the word problem:**\n\nProblem: x", "Problem: x"),
        ("Below is a short tutorial:\n# Engines", "# Engines"),
        ("Here is a paraphrased version: The cat sat.", "The cat sat."),
        ("Okay, here is the summary of the text: Cats sit.", "Cats sit."),
    ],
)
def test_an_announcement_is_removed_from_the_beginning(raw: str, cleaned: str) -> None:
    assert strip_announcement(raw) == cleaned


@pytest.mark.parametrize(
    "content",
    [
        "Here is the table:",
        "Here is where the river begins. It runs south.",
        "Here are two cats: one is black.",
        "There is a list: one, two.",
        "Problem: Here is the table:\n\n3 and 4",
        "Sure enough, the rain came: it poured.",
        "| Here is | the text: x |",
    ],
)
def test_content_that_only_resembles_an_announcement_is_kept(content: str) -> None:
    assert strip_announcement(content) == content


_WORDINGS = [
    line.split(": ", 1) for line in (Path(__file__).parent / "announcements.txt").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize(("kind", "line"), _WORDINGS)
@pytest.mark.parametrize("rest", ["\n\n- one\n- two", "\nA paragraph.", "\n\n| a | b |\n| - | - |"])
def test_a_line_that_speaks_of_the_task_is_removed_and_one_that_speaks_of_the_subject_stays(
    kind: str, line: str, rest: str
) -> None:
    assert strip_announcement(line + rest) == (rest.lstrip() if kind == "announcement" else line + rest)


def test_a_lead_in_to_a_list_of_the_subject_stays_on_one_line() -> None:
    content = "The following are the symptoms: fever, cough and fatigue."
    assert clean(content) == (content, ())


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("```markdown\n| a |\n| - |\n```", "| a |\n| - |"),
        ("~~~\ntext\n~~~\n", "text"),
        ("```\n```", ""),
        ("```\nnot closed", "```\nnot closed"),
        ("```py\na\n```\nand\n```py\nb\n```", "```py\na\n```\nand\n```py\nb\n```"),
        ("before\n```\na\n```", "before\n```\na\n```"),
    ],
)
def test_only_a_fence_around_everything_is_removed(raw: str, cleaned: str) -> None:
    assert strip_fence(raw) == cleaned


def test_nested_wrappings_are_all_removed_and_the_rules_are_named() -> None:
    wrapped = "<think>hm</think>Here is the table:\n\n```markdown\nHere is the table:\n\n| a |\n```"
    assert clean(wrapped) == ("| a |", ("thought", "announcement", "fence"))


@given(st.text() | st.from_regex(r"(<think>|</think>|```\n|Here is the text: |\n|word ){0,12}", fullmatch=True))
def test_cleaning_only_removes_text_and_a_second_cleaning_changes_nothing(text: str) -> None:
    once, used = clean(text)
    assert clean(once) == (once, ())
    assert len(once) <= len(text)
    assert used or once == text.strip()
    for rule in RULES.values():
        assert len(rule(text)) <= len(text)


@given(st.text(alphabet="ab <>/\n.", max_size=30), st.sampled_from(["<think>", "</think>"]), st.text(max_size=30))
def test_no_word_before_or_after_a_literal_tag_is_lost(before: str, tag: str, after: str) -> None:
    content = f"Word. {before}{tag}{after}".strip()
    assert clean(content) == (content, ())
