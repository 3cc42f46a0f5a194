"""One source of a study as documents: the right reader, then the sample, unique ids, and the limit.

A row goes through in this order: what the study's `keep` says of it, its text, the sample, whether its id was there
before, the limit. The first that it fails is the reason for which it is counted.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped, Row
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.corpora.reader import Position, Reader
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.source import Sample, SourceSpec, TableSource

_HASHES = 2**64  # of which a sample takes a share


class SourceReader:
    """A source of a study, with the limits that the study sets.

    Attributes:
        name: the source's name in the study, for messages.
        token_column: the column that says how many tokens a row has, if there is one.
    """

    def __init__(
        self,
        reader: Reader,
        name: str,
        *,
        sample: Sample | None = None,
        limit: int | None = None,
        ids_from_text: bool = False,
        token_column: str | None = None,
    ) -> None:
        """Takes the rows of a reader.

        Args:
            reader: where they come from.
            name: see above.
            sample: the share of the documents that counts.
            limit: documents at most.
            ids_from_text: whether an id that is there again means a text that is there again.
            token_column: see above.
        """
        self.name = name
        self.token_column = token_column
        self._reader = reader
        self._sample = sample
        self._limit = limit
        self._ids_from_text = ids_from_text

    @property
    def identity(self) -> str:
        """See `Reader`.

        Raises:
            CorpusError: what is to be read is not there.
        """
        with _named(self.name):
            return self._reader.identity

    def position(self) -> Position:
        """The place behind the row that `rows` gave last."""
        return self._reader.position()

    def rows(self, start: Position | None = None, before: IdSet | None = None) -> Iterator[Row]:
        """The rows from a position on.

        Args:
            start: a position; default: the beginning.
            before: the ids of the documents that lie behind it; those that follow are added.

        Raises:
            CorpusError: the source cannot be read as the study says, or two rows have one id.
        """
        kept = IdSet() if before is None else before
        documents = len(kept)
        if documents == self._limit:
            return
        with _named(self.name):
            for row in self._unique(self._sampled(self._reader.rows(start or {})), kept):
                yield row
                documents += isinstance(row, Document)
                if documents == self._limit:
                    return

    def _sampled(self, rows: Iterable[Row]) -> Iterator[Row]:
        if self._sample is None:
            yield from rows
            return
        share, seed = self._sample.rate * _HASHES, self._sample.seed
        reason = f"not in the sample of {self._sample.rate}"
        for row in rows:
            if isinstance(row, Document) and _drawn(seed, row.id) >= share:
                yield Dropped(source=row.source, reason=reason)
            else:
                yield row

    def _unique(self, rows: Iterable[Row], before: IdSet) -> Iterator[Row]:
        """Refuses a second document of an id; where the id is the text's hash, drops the repetition."""
        for row in rows:
            if not isinstance(row, Document) or before.add(id_hash(row.id)):
                yield row
            elif self._ids_from_text:
                yield Dropped(source=row.source, reason="repeated text")
            else:
                raise CorpusError(f"{row.source}: the id {row.id!r} stands twice; make ids unique")


def read_source(source: SourceSpec, name: str, *, requirements: Path) -> SourceReader:
    """A source of a study, to be read in its stable order.

    Args:
        source: what to read; its limit counts documents that are kept.
        name: the source's name in the study, for messages.
        requirements: the list of `name==version` lines that `package_readmes` reads.

    Raises:
        CorpusError: there is no such source.
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
    """The number of an id in a draw, uniform below `_HASHES`."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest())


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the source's name before what its reader says."""
    try:
        yield
    except (CorpusError, StudyError) as error:
        raise CorpusError(f"source {name}: {error}") from error
