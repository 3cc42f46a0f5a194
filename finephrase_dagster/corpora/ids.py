"""A set of ids that holds hundreds of millions: 16 bytes each of their hash, in tables that grow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from struct import Struct

ID_BYTES = 16  # of a hash of the id: two of a trillion ids meet with a chance of one in 10^14
_HALVES = Struct(">QQ")
_TABLES = 256  # that grow one at a time: no growth copies more than that part of the set
_FIRST_SLOTS = 64
_FULLEST = 0.65  # of a table's slots; above it probing takes long


def id_hash(name: str) -> bytes:
    """The hash of an id that stands for it in an `IdSet`."""
    return hashlib.blake2b(name.encode(), digest_size=ID_BYTES).digest()


class IdSet:
    """Ids, by their hashes. An id takes 25 to 50 bytes, however long it is; adding one takes constant time."""

    def __init__(self, ids: Iterable[bytes] = ()) -> None:
        """Takes what `id_hash` gives of each id."""
        self._tables: list[_Table | None] = [None] * _TABLES  # made when first needed: many sets hold a few ids
        for digest in ids:
            self.add(digest)

    def __len__(self) -> int:
        return sum(table.count for table in self._tables if table)

    def __contains__(self, digest: bytes) -> bool:
        table = self._tables[digest[0]]
        return table is not None and table.place(*_HALVES.unpack(digest)) is None

    def add(self, digest: bytes) -> bool:
        """Adds a hash; False where it was there already."""
        table = self._tables[digest[0]]
        if table is None:
            table = self._tables[digest[0]] = _Table()
        return table.add(*_HALVES.unpack(digest))


class _Table:
    """A hash table with open addressing; a slot is two 64-bit words, both zero while it is free."""

    def __init__(self) -> None:
        self.count = 0
        self._mask = _FIRST_SLOTS - 1
        self._words = _zeros(_FIRST_SLOTS)

    def place(self, high: int, low: int) -> int | None:
        """The word at which a hash that is not there would stand; None where it is there."""
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
