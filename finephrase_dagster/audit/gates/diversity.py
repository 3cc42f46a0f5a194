"""How different the completions of a dataset are from each other.

The value is the Vendi score of the completions' sequences of six characters, divided by the most that it could be: the
number of completions, or the 512 dimensions of their vectors if that is less. It is exact for any number of rows, and
needs no model. A setting names a model that also compares what the completions mean, on a sample.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Gate, Measure, Measurement, Settings
from finephrase_dagster.audit.row_sample import RowSample
from finephrase_dagster.audit.vendi import DIMENSIONS, GramMatrix, character_vectors

_ROWS_AT_ONCE = 1024


class Diversity(Measure):
    """Adds up the completions' vectors, and keeps a sample of texts for the model if there is one."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._gram = GramMatrix()
        self._sample = RowSample(settings["model_rows"] if settings["model"] else 0)

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._gram.add(character_vectors([row.text for row in rows if row.text.strip()]))
        if self.settings["model"]:
            self._sample.add(rows)

    def merge(self, later: Self) -> None:
        self._gram.merge(later._gram)
        self._sample.merge(later._sample)

    def result(self) -> Measurement:
        rows, score = self._gram.vectors, self._gram.score()
        value = score / min(rows, DIMENSIONS) if rows else 0.0
        figures: dict[str, Any] = {"vendi_score": score, "mean_similarity": self._gram.mean_similarity()}
        if self.settings["model"]:
            figures |= _by_meaning([row.text for row in self._sample.rows()], self.settings)
            self._sample = RowSample(0)
        return Measurement(
            value=value,
            detail=f"{rows:,} completions are as varied as {score:,.1f} that have nothing in common",
            figures=figures,
        )


def _by_meaning(texts: Sequence[str], settings: Settings) -> dict[str, Any]:
    from finephrase_dagster.audit.embedding import Embedder

    vectors = Embedder(settings["model"]).embed(texts)
    gram = GramMatrix(vectors.shape[1])
    gram.add(vectors)
    alike = np.count_nonzero(_nearest(vectors) >= settings["model_similarity"])
    return {
        "model": settings["model"],
        "model_rows": len(texts),
        "model_vendi_score": gram.score(),
        "model_mean_similarity": gram.mean_similarity(),
        "model_near_duplicates": alike / len(texts) if texts else 0.0,
    }


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the similarity of each vector to the most similar other one."""
    nearest = np.full(len(vectors), -1, np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        similar = vectors[start : start + _ROWS_AT_ONCE] @ vectors.T
        np.fill_diagonal(similar[:, start:], -1)
        nearest[start : start + _ROWS_AT_ONCE] = similar.max(axis=1)
    return nearest


GATE = Gate(
    name="diversity",
    sentence="how many different completions there effectively are (Vendi score), as a share of the most possible",
    bound="at least",
    defaults={"threshold": 0.1, "model": None, "model_rows": 2_000, "model_similarity": 0.95},
    reason="Parts of READMEs have 0.40, of one manual 0.30, 1,500 made-up tables with one header 0.15, and 1,000 texts "
    "from 50 templates 0.07.",
    remedy="Read the openings and closings under `collapse`. Use more prompts or sources, raise the temperature, or "
    "take another generator.",
    measure=Diversity,
)
