"""One source of a study as documents: its reader, then the sample, unique ids, and the limit.

A row is checked in this order: the conditions of `keep`, its text, the sample, whether its id is new, the limit. The
first check that it fails is the reason under which it is counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped, Row
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.corpora.reader import Position, Reader
from finephrase_dagster.corpora.table import ColumnMissing
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.source import Sample, SourceSpec, TableSource

SEARCH_SECONDS = 30.0
"""How long the first row of a repeated id is searched for."""
_HASHES = 2**64  # the number of hashes, of which a sample takes a share


@dataclass
class SourceReader:
    """A source of a study, with the sample and limit that the study sets.

    Attributes:
        sample: the share of the documents to keep; None: all.
        limit: the most documents; None: no limit.
        ids_from_text: whether ids are hashes of texts, so that a repeated id is a repeated text.
        token_column: the column with the number of tokens per row; None if there is none.
    """

    reader: Reader
    name: str
    _: KW_ONLY
    sample: Sample | None = None
    limit: int | None = None
    ids_from_text: bool = False
    token_column: str | None = None

    @property
    def identity(self) -> str:
        """The identity of the reader; see `Reader`.

        Raises:
            CorpusError: a file or dataset does not exist.
        """
        with _named(self.name):
            return self.reader.identity

    def position(self) -> Position:
        """Return the position after the row that `rows` yielded last."""
        return self.reader.position()

    def rows(self, start: Position | None = None, before: IdSet | None = None) -> Iterator[Row]:
        """Yield the rows from a position on.

        Args:
            start: a position; default: the beginning.
            before: the ids of all documents before it; further ids are added to this set.

        Raises:
            CorpusError: the source cannot be read as the study describes it, or two rows have the same id.
        """
        kept = IdSet() if before is None else before
        documents = len(kept)
        if documents == self.limit:
            return
        with _named(self.name):
            for row in self._unique(self._sampled(self.reader.rows(start or {})), kept):
                yield row
                documents += isinstance(row, Document)
                if documents == self.limit:
                    return

    def _sampled(self, rows: Iterable[Row]) -> Iterator[Row]:
        if self.sample is None:
            yield from rows
            return
        share, seed = self.sample.rate * _HASHES, self.sample.seed
        reason = f"not in the sample of {self.sample.rate}"
        for row in rows:
            if isinstance(row, Document) and _drawn(seed, row.id) >= share:
                yield Dropped(source=row.source, reason=reason)
            else:
                yield row

    def _unique(self, rows: Iterable[Row], before: IdSet) -> Iterator[Row]:
        """Refuse a repeated id; if ids are hashes of texts, drop the repeated text instead."""
        for row in rows:
            if not isinstance(row, Document) or before.add(id_hash(row.id)):
                yield row
            elif self.ids_from_text:
                yield Dropped(source=row.source, reason="repeated text")
            else:
                raise CorpusError(f"{self._places(row)}: the id {row.id!r} appears twice; make ids unique")

    def _places(self, again: Document) -> str:
        """Return where the row that was just read lies, and the earlier one of its id, if it is found soon."""
        place, deadline = self.reader.place(), time.monotonic() + SEARCH_SECONDS
        for row in self.reader.rows({}) if place else ():
            if isinstance(row, Document) and row.id == again.id:
                return f"{self.reader.place()}, and {place}"
            if time.monotonic() > deadline:
                break
        return place or again.source


def read_source(source: SourceSpec, name: str, *, requirements: Path) -> SourceReader:
    """Open a source of a study.

    Args:
        requirements: the list of `name==version` lines that the embedded corpus `package_readmes` is read from.

    Raises:
        CorpusError: a file or dataset does not exist.
    """
    with _named(name):
        reader: Reader = source.reader(requirements=requirements)
    if not isinstance(source, TableSource):
        return SourceReader(reader, name, limit=source.limit)
    return SourceReader(
        reader,
        name,
        sample=source.sample,
        limit=source.limit,
        ids_from_text=source.id_column is None,
        token_column=source.token_column,
    )


def _drawn(seed: int, name: str) -> int:
    """Return a number for an id that is uniformly distributed below `_HASHES`."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest())


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of the source in front of its reader's errors."""
    try:
        yield
    except (CorpusError, StudyError) as error:
        remedy = ". Name the right one in its section of the study file" if isinstance(error, ColumnMissing) else ""
        raise CorpusError(f"source {name}: {error}{remedy}") from error
