"""The Vendi score: how many different texts a set of texts amounts to (Friedman and Dieng, arXiv 2210.02410)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

DIMENSIONS, CHARACTERS = 512, 6  # of the vectors of character sequences; characters per sequence
_UNIT = 128  # length of a vector: sums over _ROWS_AT_ONCE rows are below 2^24, so that float32 holds them exactly
_ROWS_AT_ONCE, _TEXTS_AT_ONCE = 256, 64
_SPACES = " " * (CHARACTERS - 1)
_OTHER = 0xFFFF
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
    batches = [_hashed(texts[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(texts), _TEXTS_AT_ONCE)]
    return np.concatenate([np.empty((0, DIMENSIONS)), *batches])


def _hashed(texts: Sequence[str]) -> NDArray[np.float64]:
    codes, sizes = _characters(texts)
    count = len(codes) - CHARACTERS + 1
    hashes = codes[:count] * _WEIGHTS[0]
    for step in range(1, CHARACTERS):
        hashes += codes[step : step + count] * _WEIGHTS[step]
    hashes ^= hashes >> np.uint32(15)
    hashes *= _MIX
    # Sequences that begin in the spaces after a text belong to no text.
    sizes = np.stack([sizes, np.full(len(texts), len(_SPACES))], axis=1).ravel()
    owners = np.stack([np.arange(len(texts)), np.full(len(texts), len(texts))], axis=1).ravel()
    places = (np.repeat(owners, sizes)[:count] << _BITS) + (hashes >> np.uint32(32 - _BITS))
    counts = np.bincount(places, minlength=(len(texts) + 1) << _BITS)[: len(texts) << _BITS]
    signed = counts.reshape(len(texts), DIMENSIONS, 2)
    vectors = signed[..., 0] - signed[..., 1]
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    return vectors / np.maximum(lengths, 1)[:, None]


def _characters(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the characters of texts, with spaces after each text, and how many characters each text has.

    They are in lower case, with a space in place of each sequence of white space.
    """
    spaced = [text.strip() + _SPACES for text in texts]
    codes = _codes(spaced)
    lower = _lower_case()[np.minimum(codes, _OTHER)]
    if _OTHER in lower:
        spaced = [text.lower() for text in spaced]
        codes = _codes(spaced)
        lower = _lower_case()[np.minimum(codes, _OTHER)]
        lower = np.where(lower == _OTHER, codes, lower)
    sizes = np.array([len(text) - len(_SPACES) for text in spaced])
    is_space = lower == ord(" ")
    repeated = np.flatnonzero(is_space[1:] & is_space[:-1]) + 1
    ends = np.cumsum(sizes + len(_SPACES))
    owners = np.searchsorted(ends, repeated, "right")
    inside = repeated < ends[owners] - len(_SPACES)
    return np.delete(lower, repeated[inside]), sizes - np.bincount(owners[inside], minlength=len(texts))


def _codes(texts: Sequence[str]) -> NDArray[np.uint32]:
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def _lower_case() -> NDArray[np.uint32]:
    """Return each code in lower case, a space for white space, and `_OTHER` where that takes more than the code."""
    lower = [" " if char.isspace() else char.lower() for char in map(chr, range(_OTHER + 1))]
    lower[ord("\u03a3")] = ""  # a sigma is another one at the end of a word
    return np.array([ord(char) if len(char) == 1 else _OTHER for char in lower], np.uint32)
