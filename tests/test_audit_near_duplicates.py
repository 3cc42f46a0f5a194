"""The gate over near-duplicates, and the signatures that it compares."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_parts import essays, measured
from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.overlap import PromptOverlap, overlaps
from finephrase_dagster.audit.signatures import Signatures
from finephrase_dagster.audit.words import split_words
from finephrase_dagster.corpora import column


def edited(text: str, draw: random.Random, share: float) -> str:
    """Replace, drop, double or capitalise a share of the words of a text."""
    words = text.split()
    for place in draw.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = draw.choice(["other", "", f"{words[place]} {words[place]}", words[place].upper()])
    return " ".join(filter(None, words))


def similarity(one: str, other: str) -> float:
    """Return the exact share of equal word pairs of two texts."""
    first, second = ({*zip(words, [*words[1:], ""], strict=True)} for words in map(split_words, (one, other)))
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_edited_copies_and_their_originals_are_found_among_others(share: float) -> None:
    draw = random.Random(str(share))
    texts = {f"original{index}": text for index, text in enumerate(essays(500, words=400))}
    chosen = draw.sample(range(500), 40)
    planted = {f"{kind}{index}" for index in chosen for kind in ("original", "copy")}
    texts |= {f"copy{index}": edited(texts[f"original{index}"], draw, share) for index in chosen}
    measurement, flaws = measured("near_duplicates", texts)
    assert len(planted & flaws.keys()) >= 0.95 * len(planted)
    assert len(planted & flaws.keys()) >= 0.95 * len(flaws)
    assert measurement.value == len(flaws) / 540 == measurement.failing / 540
    assert flaws[f"copy{chosen[0]}"].startswith(f"nearly the same as 'original{chosen[0]}' (similarity 0.")
    assert all(example.reason == flaws[example.id] for example in measurement.examples)


def test_a_copy_in_a_script_without_spaces_is_found() -> None:
    characters = [chr(0x4E00 + index) for index in range(2000)]
    draw = random.Random(0)
    texts = ["".join(draw.choices(characters, k=100)) for _ in range(20)]
    copy = texts[3][:50] + "，" + texts[3][53:]
    assert measured("near_duplicates", [*texts, copy])[1].keys() == {"d3", "d20"}


def test_completions_without_words_are_no_duplicates_of_each_other() -> None:
    measurement, flaws = measured("near_duplicates", ["", " ", "--", "--", "", "words"])
    assert (measurement.value, flaws) == (0, {})
    assert measured("near_duplicates", [])[0].value == 0


def test_short_and_long_identical_completions_are_found() -> None:
    texts = ["No.", "No.", "Yes.", *essays(2), *essays(1)]
    measurement, flaws = measured("near_duplicates", texts)
    assert flaws.keys() == {"d0", "d1", "d3", "d5"}
    assert measurement.figures["identical"] == 4


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 3), st.sampled_from([7, 100]), st.randoms())
def test_similar_rows_are_found_by_any_number_of_processes_in_any_order(
    parts: int, at_once: int, draw: random.Random
) -> None:
    originals = essays(12, seed=draw.randrange(1000), words=200)
    texts = {f"id-{index}": text for index, text in enumerate(originals)}
    for index in range(8):
        texts[f"copy-{index}"] = edited(originals[index % 5], draw, draw.choice([0.02, 0.1, 0.3, 0.5]))
    best = {id: max(similarity(text, other) for key, other in texts.items() if key != id) for id, text in texts.items()}
    shuffled = dict(draw.sample(sorted(texts.items()), len(texts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(column, "SORTED_AT_ONCE", at_once)
        measurement, flaws = measured("near_duplicates", shuffled, parts=parts, chunk=5)
    assert {id for id, value in best.items() if value > 0.68} <= flaws.keys()
    assert {id for id, value in best.items() if value >= 0.35} >= flaws.keys()
    again, same = measured("near_duplicates", texts)
    assert (again.value, same) == (measurement.value, flaws)


def test_the_similarity_of_two_texts_is_estimated_without_bias() -> None:
    draw = random.Random(2)
    originals = essays(200, words=300)
    copies = [edited(text, draw, draw.random() / 2) for text in originals]
    signatures = Signatures()
    signatures.add([AuditedRow(str(index), text) for index, text in enumerate([*originals, *copies])])
    estimates = signatures.similarities(np.arange(200), np.arange(200, 400))
    errors = estimates - [similarity(one, other) for one, other in zip(originals, copies, strict=True)]
    assert abs(errors.mean()) < 0.01
    assert errors.std() < 0.06


def test_prompts_that_give_the_same_text_for_a_document_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finephrase_dagster.audit.overlap.SORTED_AT_ONCE", 7)
    draw = random.Random(4)
    faq, table = (dict(enumerate(essays(40, seed=seed, words=300))) for seed in (1, 2))
    table |= {number: edited(faq[number], draw, 0.05) for number in range(10)}
    table[40] = faq[20]  # another document's
    paths = {}
    for name, texts in {"faq": faq, "table": dict(reversed(table.items())), "math": {0: faq[0]}}.items():
        paths[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": [f"d{number}" for number in texts], "text": list(texts.values())}), paths[name])
    found = {(overlap.first, overlap.second): overlap for overlap in overlaps(paths)}
    assert (found["faq", "table"].documents, found["faq", "table"].near_duplicates) == (40, 0.25)
    assert 0.15 < found["faq", "table"].mean_similarity < 0.35
    assert found["faq", "math"] == PromptOverlap(
        first="faq", second="math", documents=1, near_duplicates=1.0, mean_similarity=1.0
    )
    assert found["table", "math"].documents == 1
