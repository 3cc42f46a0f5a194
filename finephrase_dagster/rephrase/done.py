"""Which rows a dataset has: stretches of rows of each input file, whatever the number of rows.

A stretch refers to the order of the rows in the input. Where that has changed since, or is unknown, ids take its place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence

from finephrase_dagster.corpora.ids import IdSet, id_hash

Stretch = Sequence[int]
"""The first row and the row after the last one."""


class DoneRows:
    """A set of rows, to which rows are added before it is asked."""

    def __init__(self) -> None:
        self.count = 0
        self._added: dict[int, list[Stretch]] = defaultdict(list)
        self._merged: dict[int, list[list[int]]] = {}
        self._ids: IdSet | None = None

    def add(self, shard: int, stretches: Iterable[Stretch]) -> None:
        """Add rows of an input file."""
        stretches = list(stretches)
        self.count += sum(stop - start for start, stop in stretches)
        self._added[shard] += stretches

    def add_ids(self, names: Iterable[str]) -> None:
        """Add rows by their ids."""
        for name in names:
            self._ids = IdSet() if self._ids is None else self._ids
            self.count += self._ids.add(id_hash(name))

    @property
    def knows_ids(self) -> bool:
        """Whether rows were added by their ids."""
        return self._ids is not None

    def complement(self, rows: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return the stretches that are missing, each with the index of its file; `rows` is the length of each file."""
        missing = []
        for shard, count in enumerate(rows):
            row = self.next_missing(shard, 0)
            while row < count:
                stretches = self._merged[shard]
                place = bisect_right(stretches, row, key=lambda stretch: stretch[0])
                stop = min(count, stretches[place][0] if place < len(stretches) else count)
                missing.append((shard, row, stop))
                row = self.next_missing(shard, stop)
        return missing

    def has(self, shard: int, row: int, name: str) -> bool:
        """Return whether a row is in the set."""
        return self.next_missing(shard, row) > row or (self._ids is not None and id_hash(name) in self._ids)

    def next_missing(self, shard: int, row: int) -> int:
        """Return the first row of a file, from a given one on, that is in no stretch."""
        stretches = self._merged.get(shard)
        if stretches is None:
            stretches = self._merged[shard] = merge(self._added.pop(shard, ()))
        place = bisect_right(stretches, row, key=lambda stretch: stretch[0]) - 1
        return max(row, stretches[place][1]) if place >= 0 else row


def merge(stretches: Iterable[Stretch]) -> list[list[int]]:
    """Return stretches in order, those that touch as one."""
    merged: list[list[int]] = []
    for start, stop in sorted([start, stop] for start, stop in stretches):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return merged


def stretches_of(rows: Iterable[int]) -> list[list[int]]:
    """Return rows as stretches."""
    return merge([row, row + 1] for row in rows)
