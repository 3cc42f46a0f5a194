"""The survey of the input: how many rows, that each has an id of its own, and the rows' identity.

Read before anything is sent. The identity is that of the set of rows: their order, and how they are divided
into files, do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.reader import InputRow, rows_of, stamp


class DuplicateId(FinephraseError, exit_status=2):
    """Two rows of the input have the same id."""


class NoRows(FinephraseError, exit_status=2):
    """The input holds no row."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the input holds.

    Attributes:
        files: paths or URLs, in the order given.
        limit: rows that count, from the first; None: all.
        rows: how many that are.
        digest: their identity.
        stamps: what tells whether a file has changed since (`reader.stamp`).
    """

    files: tuple[str, ...]
    limit: int | None
    rows: int
    digest: str
    stamps: tuple[str, ...]


class RowSet:
    """The identity of a set of rows, built up one by one: the sum of their hashes."""

    def __init__(self, rows: int = 0, total: int = 0) -> None:
        """An empty set, or one of so many rows with that sum."""
        self.rows = rows
        self.sum = total

    def add(self, row: InputRow) -> None:
        """Adds a row: its id, its text, and why it has none."""
        text = hashlib.sha256(row.text.encode()).digest()
        digest = hashlib.sha256(b"%b\0%b%b" % (row.id.encode(), text, (row.skip or "").encode())).digest()
        self.sum += int.from_bytes(digest)
        self.rows += 1

    @property
    def digest(self) -> str:
        whole = (self.sum % 2**256).to_bytes(32) + self.rows.to_bytes(8)
        return hashlib.sha256(whole).hexdigest()[:SHORT]


def survey(files: Sequence[str], limit: int | None = None) -> Survey:
    """Reads all rows once.

    Raises:
        InputUnreadable: a file cannot be read, or a row has no id.
        DuplicateId: naming one id that stands more than once.
        NoRows: there is none.
    """
    stamps = tuple(stamp(file) for file in files)
    content = RowSet()
    ids = IdSet()
    for row in _limited(files, limit):
        content.add(row)
        if not ids.add(id_hash(row.id)):
            raise DuplicateId(f"the id {row.id!r} stands more than once in {', '.join(files)}; give every row its own")
    if not content.rows:
        raise NoRows(f"{', '.join(files)}: no rows; give a file that has some")
    return Survey(files=tuple(files), limit=limit, rows=content.rows, digest=content.digest, stamps=stamps)


def _limited(files: Sequence[str], limit: int | None) -> Iterator[InputRow]:
    return islice((row for file in files for row in rows_of(file)), limit)
