"""What a reader of a source can do: give its rows in a stable order, from any position on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from finephrase_dagster.corpora.document import Row

Position = dict[str, Any]
"""A place between two rows, as JSON; each reader has its own. An empty one is the beginning."""


class Reader(Protocol):
    """Rows in a stable order."""

    @property
    def identity(self) -> str:
        """Differs if the rows may: a position counts only in a source of the same identity.

        Raises:
            CorpusError, StudyError: what is to be read is not there.
        """

    def position(self) -> Position:
        """The place behind the row that `rows` gave last."""

    def rows(self, start: Position) -> Iterator[Row]:
        """The rows from a position on; what lies behind it is not read again, or only in its file.

        Raises:
            CorpusError: a row or the whole of it cannot be read.
        """


class ListedReader:
    """Rows that are quick to make again; a position is their number."""

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
