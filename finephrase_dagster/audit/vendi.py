"""The Vendi score: how many different texts a set of texts amounts to (Friedman and Dieng, arXiv 2210.02410)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

DIMENSIONS, CHARACTERS = 512, 6  # of the vectors of character sequences; characters per sequence
_UNIT = 128  # length of a vector: sums over _ROWS_AT_ONCE rows are below 2^24, so that float32 holds them exactly
_ROWS_AT_ONCE = 256
_WEIGHTS = np.random.default_rng(1).integers(0, 2**32, CHARACTERS, np.uint32) | np.uint32(1)
_MIX, _BITS = np.uint32(0x9E3779B1), (2 * DIMENSIONS - 1).bit_length()


class GramMatrix:
    """Sums of products of unit vectors, in whole numbers: the score of any number of vectors follows from them."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.vectors = 0
        self._products = np.zeros((dimensions, dimensions), np.int64)
        self._sums = np.zeros(dimensions, np.int64)

    def add(self, vectors: NDArray[np.floating]) -> None:
        """Add unit vectors, one per row, rounded to 1/128."""
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            whole = np.rint(vectors[start : start + _ROWS_AT_ONCE] * _UNIT).astype(np.float32)
            self.vectors += len(whole)
            self._products += (whole.T @ whole).astype(np.int64)
            self._sums += whole.sum(axis=0).astype(np.int64)

    def merge(self, later: Self) -> None:
        """Add what was added to another."""
        self.vectors += later.vectors
        self._products += later._products
        self._sums += later._sums

    def score(self) -> float:
        """Return the Vendi score: the exponential of the entropy of the eigenvalues of all similarities."""
        if not self.vectors:
            return 0.0
        values = np.linalg.eigvalsh(self._products / np.trace(self._products))
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    def mean_similarity(self) -> float:
        """Return the mean cosine similarity of two different vectors."""
        if self.vectors < 2:
            return 0.0
        squares = float(np.trace(self._products))
        return (float(self._sums @ self._sums) - squares) / (squares * (self.vectors - 1))


def character_vectors(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return a unit vector for each text: its sequences of six characters, hashed, with a sign, to 512 dimensions.

    Case and white space do not count. The expected product of two vectors is the cosine similarity of the counts of
    their sequences.
    """
    padding = " " * (CHARACTERS - 1)
    batches = [
        _hashed([collapse_space(text) + padding for text in texts[start : start + _ROWS_AT_ONCE]])
        for start in range(0, len(texts), _ROWS_AT_ONCE)
    ]
    return np.concatenate([np.empty((0, DIMENSIONS)), *batches])


def collapse_space(text: str) -> str:
    """Return a text in lower case with single spaces in place of white space."""
    lower = text.lower().replace("\n", " ")
    if not lower.isprintable():  # has other white space
        return " ".join(lower.split())
    while "  " in lower:
        lower = lower.replace("  ", " ")
    return lower.strip()


def _hashed(texts: Sequence[str]) -> NDArray[np.float64]:
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    count = len(codes) - CHARACTERS + 1
    hashes = codes[:count] * _WEIGHTS[0]
    for step in range(1, CHARACTERS):
        hashes += codes[step : step + count] * _WEIGHTS[step]
    hashes ^= hashes >> np.uint32(15)
    hashes *= _MIX
    # Sequences that begin in the padding belong to no text.
    sizes = [size for text in texts for size in (len(text) - CHARACTERS + 1, CHARACTERS - 1)]
    owners = np.stack([np.arange(len(texts)), np.full(len(texts), len(texts))], axis=1).ravel()
    places = (np.repeat(owners, sizes)[:count] << _BITS) + (hashes >> np.uint32(32 - _BITS))
    counts = np.bincount(places, minlength=(len(texts) + 1) << _BITS)[: len(texts) << _BITS]
    signed = counts.reshape(len(texts), DIMENSIONS, 2)
    vectors = signed[..., 0] - signed[..., 1]
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    return vectors / np.maximum(lengths, 1)[:, None]
