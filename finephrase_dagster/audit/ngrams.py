"""The n-grams of many texts at once, as hashes of 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.words import Hashes

ROWS_AT_ONCE = 256  # whose hashes fit into a processor's cache

_FACTORS = np.random.default_rng(0).integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)


class HashedWords:
    """The words of some texts, as the hashes that `AuditedRow` has of them."""

    def __init__(self, texts: Sequence[Hashes]) -> None:
        self._words = np.concatenate([np.empty(0, np.uint64), *texts])
        self._owners = np.repeat(np.arange(len(texts)), list(map(len, texts)))

    def ngrams(self, length: int) -> tuple[Hashes, NDArray[np.int64]]:
        """Return the hashes of all n-grams, one text after the other, and the index of each one's text."""
        count = max(len(self._words) - length + 1, 0)
        hashes = np.zeros(count, np.uint64)
        for place in range(length):
            hashes += self._words[place : place + count] * _FACTORS[place]
        inside = self._owners[:count] == self._owners[len(self._owners) - count :]
        return hashes[inside], self._owners[:count][inside]


def slices(rows: Sequence[AuditedRow]) -> Iterator[Sequence[AuditedRow]]:
    """Yield rows a few at a time."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
