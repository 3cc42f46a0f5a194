"""A column of hundreds of millions of numbers in a temporary file, so that memory does not grow with it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_KEPT, SORTED_AT_ONCE = 1 << 14, 1 << 21  # numbers kept until they are written; sorted in memory


class Column:
    """Numbers of one type in the order in which they were added. A pickled column is a copy of it."""

    def __init__(self, dtype: DTypeLike = np.uint64) -> None:
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._kept: list[NDArray[Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, numbers: ArrayLike) -> None:
        """Add numbers."""
        self._kept.append(np.asarray(numbers, self._dtype))
        before, self._count = self._count, self._count + len(self._kept[-1])
        if len(self._kept) >= _KEPT or self._count // _KEPT > before // _KEPT:
            self._write()

    def read(self) -> NDArray[Any]:
        """Return all numbers, read from the file where they are used; it is in memory until dropped."""
        self._write()
        return np.memmap(self._file, self._dtype, "r", shape=(len(self),)) if len(self) else np.empty(0, self._dtype)

    def groups(self, groups: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the positions of all numbers in so many groups, or as many as fit into memory, by their remainder."""
        groups = groups or len(self) // SORTED_AT_ONCE + 1
        for group in range(groups):
            yield self._group(group, groups)

    def counts(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield different numbers, a group at a time, and how often each was added."""
        for positions in self.groups():
            yield np.unique(self.read()[positions], return_counts=True)

    def merge(self, later: Self) -> None:
        """Add what was added to another column."""
        self._write()
        later._write()
        later._file.seek(0)
        shutil.copyfileobj(later._file, self._file)
        self._count += len(later)

    def __getstate__(self) -> tuple[str, str, int]:
        """Copy the numbers to a file that the process which receives this object takes over."""
        self._write()
        self._file.seek(0)
        with tempfile.NamedTemporaryFile(delete=False) as copy:
            shutil.copyfileobj(self._file, copy)
        return self._dtype.str, copy.name, self._count

    def __setstate__(self, state: tuple[str, str, int]) -> None:
        dtype, path, self._count = state
        self._dtype, self._file, self._kept = np.dtype(dtype), Path(path).open("r+b"), []  # noqa: SIM115
        Path(path).unlink()

    def _group(self, group: int, groups: int) -> NDArray[Any]:
        numbers, divisor = self.read(), self._dtype.type(groups)
        return np.concatenate([
            start + np.flatnonzero(numbers[start : start + SORTED_AT_ONCE] % divisor == group)
            for start in range(0, len(numbers) + 1, SORTED_AT_ONCE)
        ])  # fmt: skip

    def _write(self) -> None:
        self._file.seek(0, 2)
        for numbers in self._kept:
            self._file.write(numbers.tobytes())
        self._file.flush()
        self._kept.clear()
