"""MinHash signatures of texts: an estimate of how similar any two of hundreds of millions of texts are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.words import hash_words
from finephrase_dagster.corpora.column import Column

SEQUENCE = 2  # words of the sequences that two texts are compared by
BANDS = (
    32  # of 4 values of 16 bits: texts of which half the sequences are the same share a band in 87 %, of 0.6 in 99 %
)
VALUES = 4 * BANDS
_ROWS_AT_ONCE, _PAIRS_AT_ONCE, _BLOCK = 1 << 10, 1 << 17, 1 << 12
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)

Positions = NDArray[np.int64]


class Signatures:
    """The signatures of a dataset's rows in temporary files, with the rows' ids; rows without words are left out."""

    def __init__(self) -> None:
        self._bands = [Column() for _ in range(BANDS)]
        self._ids, self._id_sizes = Column(np.uint8), Column(np.uint32)
        self.id_hashes = Column()

    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Add rows."""
        worded = [row for row in rows if len(row.word_hashes)]
        for start in range(0, len(worded), _ROWS_AT_ONCE):
            some = worded[start : start + _ROWS_AT_ONCE]
            values = self._signatures(some)
            for column, band in zip(self._bands, values.T, strict=True):
                column.extend(band)
            ids = [row.id.encode(errors="surrogatepass") for row in some]
            self._ids.extend(np.frombuffer(b"".join(ids), np.uint8))
            self._id_sizes.extend([len(id) for id in ids])
            self.id_hashes.extend([row.id_hash for row in some])

    def merge(self, later: Self) -> None:
        """Add the rows that were added to another."""
        for mine, other in zip(self._columns(), later._columns(), strict=True):
            mine.merge(other)

    def similarities(self, some: Positions, others: Positions, of: Self | None = None) -> NDArray[np.float64]:
        """Return how similar rows are to other rows, or to those of another dataset: the share of equal sequences."""
        equal = np.zeros(len(some), np.int64)
        for band, other in zip(self._bands, (of or self)._bands, strict=True):
            different = (band.read()[some] ^ other.read()[others]).view(np.uint16).reshape(len(some), 4)
            equal += np.count_nonzero(different == 0, axis=1)
        return equal / VALUES

    def candidates(self) -> Iterator[tuple[Positions, Positions]]:
        """Yield pairs of rows that may be similar, in an order that does not depend on the order of the rows."""
        for number, band in enumerate(self._bands):
            next_band = self._bands[(number + 1) % BANDS]
            for positions in band.groups():
                keys = band.read()[positions]
                ordered = np.sort(keys)
                repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
                if not len(repeated):
                    continue
                is_shared = repeated[np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)] == keys
                shared, keys = positions[is_shared], keys[is_shared]
                # Among many rows that share the band, those that also share the next one come together.
                order = np.lexsort((self.id_hashes.read()[shared], next_band.read()[shared], keys))
                shared, keys = shared[order], keys[order]
                first = np.flatnonzero(np.diff(keys, prepend=keys[:1] ^ np.uint64(1)))
                first_of = np.repeat(shared[first], np.diff(first, append=len(shared)))
                for start in range(1, len(shared), _PAIRS_AT_ONCE):
                    later = slice(start, start + _PAIRS_AT_ONCE)
                    second, before = shared[later], shared[start - 1 : start - 1 + len(shared[later])]
                    alike = keys[start - 1 : start - 1 + len(second)] == keys[later]
                    yield before[alike], second[alike]
                    yield first_of[later][first_of[later] != second], second[first_of[later] != second]

    def id(self, position: int) -> str:
        """Return the id of a row."""
        block, sizes = position // _BLOCK, self._id_sizes.read()
        start = self._block_starts[block] + int(sizes[block * _BLOCK : position].sum())
        return self._ids.read()[start : start + int(sizes[position])].tobytes().decode(errors="surrogatepass")

    @cached_property
    def _block_starts(self) -> list[int]:
        sizes = self._id_sizes.read()
        return [0, *accumulate(int(sizes[start : start + _BLOCK].sum()) for start in range(0, len(sizes), _BLOCK))]

    def forget(self) -> None:
        """Delete the signatures, and keep the ids."""
        self._bands, self.id_hashes = [], Column()

    def _columns(self) -> list[Column]:
        return [*self._bands, self._ids, self._id_sizes, self.id_hashes]

    def _signatures(self, rows: Sequence[AuditedRow]) -> NDArray[np.uint64]:
        padding = hash_words([""] * (SEQUENCE - 1))
        hashes = np.concatenate([part for row in rows for part in (row.word_hashes, padding)])
        sequences = hashes[: len(hashes) - SEQUENCE + 1] * _FACTORS[0]
        for step in range(1, SEQUENCE):
            sequences += hashes[step : len(hashes) - SEQUENCE + 1 + step] * _FACTORS[step]
        sizes = np.array([len(row.word_hashes) for row in rows])
        starts = np.cumsum([0, *sizes + SEQUENCE - 1])
        inside = np.ones(len(hashes), bool)  # a sequence begins with a word
        for step in range(1, SEQUENCE):
            inside[starts[1:] - step] = False
        ends = np.cumsum([0, *sizes]).astype(np.uint64)
        values = RMinHash.digest_matrix_from_flat_token_hashes(
            sequences[inside[: len(sequences)]], ends, VALUES, 0
        ).to_rows()
        return np.array(values, np.uint32).astype(np.uint16).view(np.uint64)
