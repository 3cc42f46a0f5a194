"""Cleaning: each rule removes what surrounds the content and keeps the content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.rephrase.clean import RULES, clean, strip_announcement, strip_fence, strip_thoughts


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("<think>Let me see.\nYes.</think>\nThe answer.", "\nThe answer."),
        ("A <think>x</think>B <think>y</think>C", "A B C"),
        ("I will write it.</think>The answer.", "The answer."),
        ("<think>I never come to an end", ""),
        ("Nothing to think about.", "Nothing to think about."),
    ],
)
def test_thoughts_are_removed_even_if_one_of_their_tags_is_missing(raw: str, cleaned: str) -> None:
    assert strip_thoughts(raw) == cleaned


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


def test_nested_wrappings_are_all_removed() -> None:
    wrapped = "<think>hm</think>Here is the table:\n\n```markdown\nHere is the table:\n\n| a |\n```"
    assert clean(wrapped) == "| a |"


@given(st.text() | st.from_regex(r"(<think>|</think>|```\n|Here is the text: |\n|word ){0,12}", fullmatch=True))
def test_cleaning_only_removes_text_and_a_second_cleaning_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert len(once) <= len(text)
    for rule in RULES.values():
        assert len(rule(text)) <= len(text)
