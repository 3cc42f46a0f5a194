"""The patterns that rule out most rows of a gate: they miss none that has a flaw."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from audit_parts import flaw
from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.gates.copying import among
from finephrase_dagster.audit.prefilter import may_match

HINTED = ("arithmetic", "chat_markup", "empty_parts", "encoding", "loops", "prompt_echo", "refusals")
PIECES = [
    "I can't", "i\u2019m unable to", "I'm not able to", "As an AI", "a large language model", "please provide the",
    "you haven\u2019t provided", "It seems that there is no", "rewrite this text.", "I am happy to help.", "What",
    "<|im_end|>", "<\uff5ceot\uff5c>", "[INST]", "<</SYS>>", "</think>", "### Response:", "##User:", "assistant",
    "**Human** :", "<s>", "</s>", "AI:", "```", "~~~", "1.", "12)", "-", "*", "\u2022 **", "A)", "# Title", "#",
    "| a | b |", "|---|---|", "| | |", "\ufffd", "\x00", "\x85", "\x9f", "\u00c3\u00a9", "\u00e2\u20ac\u2122", "\ud83d",
    "2 + 3 = 6", "5 plus 3 is 9", "20% of 50 = 11", "\u00bd of 8 \u2248 3", "3 \u00d7 4 = 13", "sum of 2 and 3 is 6",
    "[gMASK]", "<extra_id_0>", "USER:", "model", "\u2581the", "a)", "- [ ]", "**Name**:", "- **Age:**", "3. ...",
    "- N/A",
    "I must decline", "There is no text given", "The text does not contain enough information", "17 minus 6 leaves 21",
    "11 + 6", "\n= 27", "I won\u2019t be able to", "It is not possible for me to", "I am not comfortable with this",
    "Chapter 1 begins with a walk by the sea.", "Chapter 2 begins with a walk by the sea.", "..", "Q: What?", "A:",
    "Rewrite the text above as a list.", "Use the following article", "Your task is to", "Reply only with the answer.",
    "[[DOCUMENT]]", "{text}", "Every answer must have", "questions a newcomer would ask about it", "\u3000",
    "\u2029", "x" * 45,
    "\u0663 + \u0664 = \u0668", "$4 * 3", "= $13", "two words", "Stra\u00dfe", " ", "\n", "\n\n", "\t", ".",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.integers(1, 4), st.sampled_from(["", " ", "\n", "\n\n"]))
def test_a_hint_misses_no_flaw(pieces: list[str], times: int, gap: str) -> None:
    for name in HINTED:
        flaw(name, gap.join(pieces * times))  # which compares the hint with the flaw


@given(st.lists(st.text(alphabet="ab1\u0663\u00e9\n\ud83d", max_size=5)))
def test_texts_match_as_by_pythons_expressions(texts: list[str]) -> None:
    assert may_match(texts, r"\p{Nd}") == [bool(re.search(r"\d", text)) for text in texts]
    assert may_match(texts, r"(?m)^a$") == [bool(re.search(r"^a$", text, re.MULTILINE)) for text in texts]


@given(st.lists(st.sampled_from(["the", "sea", "was", "calm.", "to", "17", "\n"]), max_size=14), st.integers(1, 7))
def test_a_repeated_phrase_passes_the_quick_test(words: list[str], times: int) -> None:
    flaw("loops", " ".join(["Then", *words * times, "it", "ended."]))


@given(st.text(alphabet="aB.!? \n\t\x85\xa0\u2019\u0130\u03a3", max_size=30))
def test_quick_ways_for_plain_text_give_what_the_patterns_do(text: str) -> None:
    row = AuditedRow("d0", text)
    assert row.sentences == [part for line in row.lines for part in re.split(r"(?<=[.!?])\s+", line) if part]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.sets(st.integers(0, 2**64 - 1), max_size=20))
def test_keys_are_found_among_sorted_ones(some: list[int], others: set[int]) -> None:
    keys, known = np.array([*some, *sorted(others)[::2]], np.uint64), np.array(sorted(others), np.uint64)
    assert among(keys, known).tolist() == [key in others for key in keys.tolist()]
