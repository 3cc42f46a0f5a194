"""A set of ids that can hold hundreds of millions: 16 bytes of the hash of each, in hash tables that grow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from struct import Struct

ID_BYTES = 16  # bytes of an id's hash; a trillion ids collide with a probability of about 10^-14
_HALVES = Struct(">QQ")
_TABLES = 256  # tables grow one at a time, so that growing copies only a small part of the set
_FIRST_SLOTS = 64
_FULLEST = 0.65  # share of used slots above which a table grows, because probing becomes slow


def id_hash(name: str) -> bytes:
    """Return the hash of an id, for an `IdSet`."""
    return hashlib.blake2b(name.encode(), digest_size=ID_BYTES).digest()


class IdSet:
    """A set of ids, stored as hashes: 25 to 50 bytes per id, whatever its length. Adding one takes constant time."""

    def __init__(self, ids: Iterable[bytes] = ()) -> None:
        """Start with the hashes (`id_hash`) of some ids."""
        self._tables: list[_Table | None] = [None] * _TABLES  # created on first use: many sets hold few ids
        for digest in ids:
            self.add(digest)

    def __len__(self) -> int:
        return sum(table.count for table in self._tables if table)

    def __contains__(self, digest: bytes) -> bool:
        table = self._tables[digest[0]]
        return table is not None and table.place(*_HALVES.unpack(digest)) is None

    def add(self, digest: bytes) -> bool:
        """Add a hash; return False if the set has it already."""
        table = self._tables[digest[0]]
        if table is None:
            table = self._tables[digest[0]] = _Table()
        return table.add(*_HALVES.unpack(digest))


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
