"""Gates over what completions have in common: their first sentences, openings, closings and sequences of words."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_parts import essays, measured
from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.gates.collapse import LENGTHS, first_sentence
from finephrase_dagster.audit.repetition import repetition

SENTENCE = "I was trying to understand how this works."


def test_115_of_1000_completions_with_one_first_sentence_are_found() -> None:
    texts = essays(1000)
    collapsed = random.Random(1).sample(range(1000), 115)
    for index in collapsed:
        texts[index] = f"{SENTENCE} {texts[index]}"
    measurement, flaws = measured("collapse", texts)
    assert (measurement.value, measurement.failing) == (0.115, 115)
    assert set(flaws) == {f"d{index}" for index in collapsed}
    assert set(flaws.values()) == {
        "begins with 'i was trying to understand how this works', as 11.5% of the completions do"
    }
    assert measurement.figures["prefixes"]["most_common"][LENGTHS.index(40)] == 115
    opening = measurement.figures["openings"][0]
    assert (opening["text"], opening["share"]) == ("i was trying to understand how this works", 0.115)


@pytest.mark.parametrize(
    "template",
    [
        "In the world of software, few subjects matter as much as {0}.",
        "{0} is a fundamental concept that every developer should understand well.",
        "In this article, we look at {0} and at its many uses.",
        "When a {1} first meets {0}, it looks {2}.",
        "Have you ever wondered how {0} helps a {1} who feels {2}?",
        "{1} and {2} once talked about {0}.",
    ],
)
@pytest.mark.slow
def test_a_first_sentence_with_slots_is_a_template(template: str) -> None:
    texts = essays(1000)
    collapsed = random.Random(2).sample(range(1000), 115)
    for index in collapsed:
        words = texts[index].replace(".", "").split()
        texts[index] = f"{template.format(' '.join(words[:2]), words[5], words[9])} {texts[index]}"
    measurement, flaws = measured("collapse", texts)
    assert (measurement.value, measurement.failing) == (0.115, 115)
    assert set(flaws) == {f"d{index}" for index in collapsed}


def test_sentences_that_share_only_grammar_are_no_template() -> None:
    draw = random.Random(3)
    grammar = ["the", "of", "a", "is", "in", "and", "to", "it", "that", "for"]
    mixed = [zip(draw.choices(grammar, k=6), text.split(), strict=False) for text in essays(300)]
    texts = [f"{' '.join(word for pair in pairs for word in pair)}. More." for pairs in mixed]
    assert measured("collapse", texts)[1] == {}


@pytest.mark.parametrize(
    "form", ["Q: What is {0}?\nA: {1}", "**Question:** {1}\n\n**Answer:** {0}", "Problem: {1}\nSolution: 1", "# {1}"]
)
def test_different_completions_of_one_form_pass(form: str) -> None:
    texts = [form.format(f"{text.split()[0]} {text.split()[1]}", text) for text in essays(60, words=20)]
    measurement, flaws = measured("collapse", texts)
    assert (measurement.value, flaws) == (0, {})


def test_two_completions_with_one_first_sentence_are_chance() -> None:
    measurement, flaws = measured("collapse", ["The same beginning.", "The same beginning.", "Another thing is this."])
    assert (measurement.value, flaws) == (0, {})


def test_every_common_first_sentence_fails_its_rows() -> None:
    texts = [
        f"{('It rains all day.', 'The sun shines again.', '')[index % 3]} {text}"
        for index, text in enumerate(essays(90))
    ]
    measurement, flaws = measured("collapse", texts)
    assert (round(measurement.value, 2), len(flaws)) == (0.33, 60)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("The cat sat. It slept.", "the cat sat"),
        ("# Getting started\n\n1. Install the package. Then go on.", "getting started install the package"),
        ("Q: What is a queue?\nA: A list.", "q what is a queue a a list"),
        ("Q: What is the name of the project?\nA: Ode.", "q what is the name of the project"),
        ("**Sure!** Here is the text.", "sure here is the text"),
        ("| Name | Age |\n| --- | :-: |\n| Ada | 36 |\n| Bob | 41 |", "name age ada #"),
        ("<p align='center'>\n <img src='x'/>\n</p>\nA tool that sorts. Fast.", "a tool that sorts"),
        ("量子力学是物理学的一个分支。它研究微观世界。", " ".join("量子力学是物理学的一个分支")),
        ("Кошка спит на диване. Она старая.", "кошка спит на диване"),
        ("In 1905 a 3rd ship came.", "in # a 3rd ship came"),
        ("", ""),
        (" \n- ", ""),
    ],
)
def test_a_first_sentence_is_the_first_that_has_three_words(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text("ab\0 é.\n", max_size=70), min_size=1, max_size=30), st.integers(1, 3), st.randoms())
@pytest.mark.slow
def test_prefixes_and_first_sentences_are_counted_exactly_by_any_number_of_processes(
    texts: list[str], parts: int, order: random.Random
) -> None:
    by_id = {f"d{index}": text for index, text in enumerate(texts)}
    shuffled = dict(order.sample(sorted(by_id.items()), len(by_id)))
    measurement, flaws = measured("collapse", shuffled, parts=parts, chunk=7)
    prefixes = [Counter(text[:length] for text in texts) for length in LENGTHS]
    assert measurement.figures["prefixes"] == {
        "length": list(range(2, 61, 2)),
        "distinct": [len(counts) for counts in prefixes],
        "most_common": [max(counts.values()) for counts in prefixes],
    }
    sentences = Counter(sentence for text in texts if (sentence := first_sentence(text)))
    most = max(sentences.values(), default=0)
    assert measurement.value == (most / len(texts) if most >= 3 else 0)
    limit = max(2, 0.02 * len(texts))
    assert set(flaws) == {id for id, text in by_id.items() if sentences[first_sentence(text)] > limit}
    assert measurement.figures == measured("collapse", by_id)[0].figures


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=8))
def test_sequences_of_words_are_counted_exactly(documents: list[list[str]]) -> None:
    figures = repetition([AuditedRow(str(index), " ".join(words)) for index, words in enumerate(documents)])
    for size in range(1, 5):
        sequences = [tuple(words[i : i + size]) for words in documents for i in range(len(words) - size + 1)]
        share = len(set(sequences)) / len(sequences) if sequences else 1
        assert figures["distinct_n"][str(size)] == pytest.approx(share, abs=1e-6)
    fours = Counter(four for words in documents for four in {tuple(words[i : i + 4]) for i in range(len(words) - 3)})
    shared = sum(count for count in fours.values() if count > 1) / max(sum(fours.values()), 1)
    assert figures["self_repetition"] == pytest.approx(shared, abs=1e-6)


def test_frames_are_the_longest_common_beginnings_and_ends() -> None:
    texts = [f"In short we see that {text} I hope this helps" for text in essays(20)] + essays(20, seed=5)
    figures = repetition([AuditedRow(str(index), text) for index, text in enumerate(texts)])
    assert figures["openings"] == [{"text": "in short we see that", "share": 0.5, "example": "0"}]
    assert figures["closings"] == [{"text": "i hope this helps", "share": 0.5, "example": "0"}]


def test_texts_that_repeat_each_other_compress_better() -> None:
    varied, same = essays(50), essays(1) * 50
    ratios = [
        repetition([AuditedRow(str(index), text) for index, text in enumerate(texts)])["compression_ratio"]["zstd"]
        for texts in (varied, same)
    ]
    assert ratios[0] < 5 < 20 < ratios[1]
