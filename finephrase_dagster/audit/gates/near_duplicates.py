"""Completions that nearly repeat another one: a generator that lost its source, or a source with duplicates.

Two completions are compared by their pairs of adjacent words, through MinHash signatures of 128 values: the similarity
is an estimate, with a standard error of .04, of the pairs that both have among those that either has. Each edited word
of ten leaves a similarity of about .75, of five .55; different texts about one subject stay below .2. All completions
of a group of near-duplicates fail, not all but the first, since none of them is worth more than the others.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from finephrase_dagster.audit.gate import (
    EXAMPLES,
    AuditedDataset,
    AuditedRow,
    FailingRow,
    Gate,
    Measure,
    Measurement,
    Settings,
)
from finephrase_dagster.audit.signatures import Signatures
from finephrase_dagster.corpora.ids import short_hash


class NearDuplicates(Measure):
    """Compares the signatures of all rows, which are in temporary files of 280 bytes per row and its id."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = 0
        self._signatures = Signatures()
        self._hashes = np.empty(0, np.uint64)
        self._partners, self._similarities = np.empty(0, np.int32), np.empty(0, np.float32)

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        self._signatures.add(rows)

    def merge(self, later: Self) -> None:
        self._rows += later._rows
        self._signatures.merge(later._signatures)

    def flaw(self, row: AuditedRow) -> str | None:
        hash = np.uint64(row.id_hash)
        place = int(np.searchsorted(self._hashes, hash))
        return self._reason(place) if place < len(self._hashes) and self._hashes[place] == hash else None

    def result(self) -> Measurement:
        # All that is kept in memory per row: 6 bytes. A similarity is a multiple of 1/128, so float16 holds it exactly.
        partner = np.full(len(self._signatures.id_hashes), -1, np.int32)
        similarity = np.zeros(len(partner), np.float16)
        for pair in self._signatures.candidates():
            fresh = (partner[pair[0]] < 0) | (partner[pair[1]] < 0)
            some, others = pair[0][fresh], pair[1][fresh]
            value = self._signatures.similarities(some, others)
            alike = value >= self.settings["similarity"]
            for one, other in ((some[alike], others[alike]), (others[alike], some[alike])):
                first = partner[one] < 0
                partner[one[first]], similarity[one[first]] = other[first], value[alike][first]
        positions = np.flatnonzero(partner >= 0)
        examples = positions[:EXAMPLES]
        positions = positions[np.argsort(self._signatures.id_hashes.read()[positions], kind="stable")]
        self._hashes = self._signatures.id_hashes.read()[positions]
        self._signatures.forget()
        self._partners, self._similarities = partner[positions], similarity[positions].astype(np.float32)
        count = len(positions)
        return Measurement(
            value=count / self._rows if self._rows else 0.0,
            detail=f"{count:,} of {self._rows:,} completions are nearly the same as another one",
            failing=count,
            examples=[self._example(int(position)) for position in examples],
            figures={"identical": int(np.count_nonzero(self._similarities == 1)), "histogram": self._histogram()},
        )

    def _example(self, position: int) -> FailingRow:
        id = self._signatures.id(position)
        return FailingRow(id, self._reason(int(np.searchsorted(self._hashes, np.uint64(short_hash(id))))))

    def _reason(self, place: int) -> str:
        other = self._signatures.id(int(self._partners[place]))
        return f"nearly the same as {other!r} (similarity {self._similarities[place]:.2f})"

    def _histogram(self) -> dict[str, Any]:
        """Return the number of failing rows by their similarity, in ten steps."""
        counts, edges = np.histogram(self._similarities, 10, (0, 1))
        return {"similarity": edges.round(2).tolist(), "rows": counts.tolist()}


GATE = Gate(
    name="near_duplicates",
    sentence="the share of completions that are nearly the same as another completion of the dataset",
    bound="at most",
    defaults={"threshold": 0.05, "similarity": 0.5},
    reason="Of the READMEs of 336 packages 4 % have a near-duplicate; with more, a student reads the same text again.",
    remedy="Compare the failing rows with those that they repeat. If their sources repeat each other too, deduplicate "
    "the source; otherwise change the prompt, raise the temperature, or take another generator.",
    measure=NearDuplicates,
)
