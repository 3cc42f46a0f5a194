"""The n-grams of many texts at once, as hashes of 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.words import Hashes

ROWS_AT_ONCE = 256  # whose hashes fit into a processor's cache
SLOTS = 1 << 20  # several times as many as such rows have words

_FACTORS = np.random.default_rng(0).integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)


class HashedWords:
    """The words of some texts, as the hashes that `AuditedRow` has of them.

    Attributes:
        words: the hashes, one text after the other.
        owners: the index of each word's text.
    """

    def __init__(self, texts: Sequence[Hashes]) -> None:
        self.words = np.concatenate([np.empty(0, np.uint64), *texts])
        self.owners = np.repeat(np.arange(len(texts)), list(map(len, texts)))

    def ngrams(self, length: int) -> tuple[Hashes, NDArray[np.int64]]:
        """Return the hashes of all n-grams, one text after the other, and the index of each one's text."""
        count = max(len(self.words) - length + 1, 0)
        hashes = np.zeros(count, np.uint64)
        for place in range(length):
            hashes += self.words[place : place + count] * _FACTORS[place]
        inside = self.owners[:count] == self.owners[len(self.owners) - count :]
        return hashes[inside], self.owners[:count][inside]

    def ngrams_at(self, places: NDArray[np.int64], length: int) -> tuple[Hashes, NDArray[np.int64]]:
        """Return the hashes of the n-grams at some places, and these places; those across two texts are left out."""
        places = places[places <= len(self.words) - length]
        places = places[self.owners[places] == self.owners[places + length - 1]]
        hashes = np.zeros(len(places), np.uint64)
        for step in range(length):
            hashes += self.words[places + step] * _FACTORS[step]
        return hashes, places


def slots(hashes: Hashes, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each hash one of `SLOTS`, the same for equal hashes of one text: tables of them replace sorting."""
    mixed = hashes + owners.astype(np.uint64) * _FACTORS[-1]
    return (mixed >> np.uint64(65 - SLOTS.bit_length())).astype(np.int64)


def shared_places(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of slots that occur more than once: all hashes that are equal, and few others."""
    last, numbers = np.empty(SLOTS, np.int32), np.arange(len(places), dtype=np.int32)
    last[places] = numbers
    is_shared = np.zeros(SLOTS, bool)
    is_shared[places[last[places] != numbers]] = True
    return np.flatnonzero(is_shared[places])


def slices(rows: Sequence[AuditedRow]) -> Iterator[Sequence[AuditedRow]]:
    """Yield rows a few at a time."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
