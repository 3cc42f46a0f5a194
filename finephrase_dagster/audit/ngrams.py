"""The n-grams of many texts at once, as hashes of 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.audit.gate import AuditedRow

Hashes = NDArray[np.uint64]
ROWS_AT_ONCE = 256  # whose hashes fit into a processor's cache

_FACTORS = np.random.default_rng(0).integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)


def ngram_hashes(texts: Sequence[Sequence[str]], length: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of the n-grams of each text, given as words, one text after the other, and each one's text.

    Words are hashed with a key of this process: hashes of another process differ.
    """
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    words = np.fromiter(map(hash, chain.from_iterable(texts)), np.int64, int(sizes.sum())).view(np.uint64)
    owners = np.repeat(np.arange(len(texts)), sizes)
    count = max(len(words) - length + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for place in range(length):
        hashes += words[place : place + count] * _FACTORS[place]
    inside = owners[:count] == owners[len(owners) - count :]
    return hashes[inside], owners[:count][inside]


def slices(rows: Sequence[AuditedRow]) -> Iterator[Sequence[AuditedRow]]:
    """Yield rows a few at a time."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
