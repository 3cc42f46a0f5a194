"""The interface of a source's reader: its rows in a stable order, starting at any position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from finephrase_dagster.corpora.columns import Columns
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

    def place(self) -> str:
        """Return the file and row that `rows` yielded last, for messages; empty if there are no files."""

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

    def place(self) -> str:
        return ""

    def rows(self, start: Position) -> Iterator[Row]:
        self._row = start.get("row", 0)
        for row in islice(self._make(), self._row, None):
            self._row += 1
            yield row


class FilesReader(ABC):
    """Reads files one after the other; a position is the index of a file and the number of its rows that were read."""

    def __init__(self, columns: Columns, source: str | None = None) -> None:
        """Read these columns of each row; `source` is where documents come from, by default their file."""
        self._columns, self._source = columns, source
        self._file, self._row, self._url = 0, 0, ""

    @property
    @abstractmethod
    def identity(self) -> str:
        """See `Reader`."""

    @abstractmethod
    def urls(self) -> Sequence[str]:
        """Return the paths or URLs of the files, in a stable order."""

    def position(self) -> Position:
        return {"file": self._file, "row": self._row}

    def place(self) -> str:
        return f"{self._url}, row {self._row}"

    def rows(self, start: Position) -> Iterator[Row]:
        first, skipped = start.get("file", 0), start.get("row", 0)
        for index, url in enumerate(self.urls()[first:], first):
            self._file, self._row, self._url = index, skipped, url
            for row in self._columns.file_rows(url, self._source or url, skipped):
                self._row += 1
                yield row
            skipped = 0
