"""The interface of a source's reader: its rows in a stable order, starting at any position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from finephrase_dagster.corpora.document import Row

Position = dict[str, Any]
"""A place between two rows, as JSON; its fields are the reader's own. An empty one is the beginning."""


class Reader(Protocol):
    """Reads the rows of a source in a stable order."""

    @property
    def identity(self) -> str:
        """A text that changes whenever the rows may have changed; positions are valid for one identity only.

        Raises:
            CorpusError, StudyError: a file or dataset does not exist.
        """

    def position(self) -> Position:
        """Return the position after the row that `rows` yielded last."""

    def rows(self, start: Position) -> Iterator[Row]:
        """Yield the rows from a position on. Of earlier rows, at most those of the same file are read again.

        Raises:
            CorpusError: the source cannot be read.
        """


class ListedReader:
    """Reads rows that are quick to make again; a position is the number of rows before it."""

    def __init__(self, make: Callable[[], Iterable[Row]], identity: str) -> None:
        self._make = make
        self.identity = identity
        self._row = 0

    def position(self) -> Position:
        return {"row": self._row}

    def rows(self, start: Position) -> Iterator[Row]:
        self._row = start.get("row", 0)
        for row in islice(self._make(), self._row, None):
            self._row += 1
            yield row
