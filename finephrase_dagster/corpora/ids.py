"""Hundreds of millions of ids: a set of their hashes, and those that occur more than once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from struct import Struct

import numpy as np

from finephrase_dagster.corpora.column import Column

ID_BYTES = 16  # bytes of an id's hash; a trillion ids collide with a probability of about 10^-14
_HALVES = Struct(">QQ")
_TABLES = 256  # tables grow one at a time, so that growing copies only a small part of the set
_FIRST_SLOTS = 64
_MOST_FOUND = 1_000  # repeated ids that are named
_FULLEST = 0.65  # share of used slots above which a table grows, because probing becomes slow


def id_hash(name: str) -> bytes:
    """Return the hash of an id, for an `IdSet`."""
    return hashlib.blake2b(name.encode(), digest_size=ID_BYTES).digest()


class HashFile(Column):
    """The hashes of hundreds of millions of texts."""

    def add(self, texts: Iterable[str]) -> None:
        """Add texts."""
        self.extend(np.fromiter(map(short_hash, texts), np.uint64))


class RepeatedIds:
    """Finds ids that occur more than once, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self._hashes = HashFile()
        self.count = 0
        self._candidates: set[int] = set()

    def __contains__(self, name: str) -> bool:
        """Whether an id is one of the first thousand that `find` counted."""
        return bool(self._candidates) and short_hash(name) in self._candidates

    def add(self, names: Iterable[str]) -> None:
        """Add ids."""
        self._hashes.add(names)

    def merge(self, other: RepeatedIds) -> None:
        """Add what was added to another."""
        self._hashes.merge(other._hashes)

    def find(self, names: Iterable[str]) -> Iterator[str]:
        """Count the repeated ids, and yield the first of them, given all ids a second time."""
        candidates = self._candidates
        candidates.clear()
        self.count = 0
        for hashes, times in self._hashes.counts():
            repeated = hashes[times > 1]
            self.count += len(repeated)
            candidates.update(repeated[: _MOST_FOUND - len(candidates)].tolist())
        seen = Counter[str]()
        for name in names if candidates else ():
            if short_hash(name) in candidates:
                seen[name] += 1
                if seen[name] == 2:
                    yield name


def short_hash(text: str) -> int:
    """Return a hash of 64 bits, for a `HashFile`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class IdSet:
    """A set of ids, stored as hashes: 25 to 50 bytes per id, whatever its length. Adding one takes constant time."""

    def __init__(self, ids: Iterable[bytes] = ()) -> None:
        """Start with the hashes (`id_hash`) of some ids."""
        self._tables: list[_Table | None] = [None] * _TABLES  # created on first use: many sets hold few ids
        self._count = 0
        for digest in ids:
            self.add(digest)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: bytes) -> bool:
        table = self._tables[digest[0]]
        return table is not None and table.place(*_HALVES.unpack(digest)) is None

    def add(self, digest: bytes) -> bool:
        """Add a hash; return False if the set has it already."""
        table = self._tables[digest[0]]
        if table is None:
            table = self._tables[digest[0]] = _Table()
        is_new = table.add(*_HALVES.unpack(digest))
        self._count += is_new
        return is_new


class _Table:
    """A hash table with open addressing. A slot is two 64-bit words, both zero if it is free."""

    def __init__(self) -> None:
        self.count = 0
        self._mask = _FIRST_SLOTS - 1
        self._words = _zeros(_FIRST_SLOTS)

    def place(self, high: int, low: int) -> int | None:
        """Return the index of the word where a new hash belongs; None if the table has the hash."""
        words, mask = self._words, self._mask
        slot = low & mask
        while True:
            first = words[2 * slot]
            if first == high and words[2 * slot + 1] == low:
                return None
            if not first and not words[2 * slot + 1]:
                return 2 * slot
            slot = (slot + 1) & mask

    def add(self, high: int, low: int) -> bool:
        place = self.place(high, low)
        if place is None:
            return False
        self._words[place], self._words[place + 1] = high, low
        self.count += 1
        if self.count > _FULLEST * (self._mask + 1):
            self._grow()
        return True

    def _grow(self) -> None:
        old, slots = self._words, 2 * (self._mask + 1)
        self._words, self._mask = _zeros(slots), slots - 1
        for word in range(0, len(old), 2):
            high, low = old[word], old[word + 1]
            place = self.place(high, low) if high or low else None
            if place is not None:
                self._words[place], self._words[place + 1] = high, low


def _zeros(slots: int) -> memoryview:
    return memoryview(bytearray(2 * 8 * slots)).cast("Q")
