"""The survey of the input: the number of rows, a hash of the rows, and a check that ids are unique.

The input is surveyed before anything is sent. The hash is that of the set of rows: neither their order nor their
division into files changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.reader import InputRow, rows_of, stamp


class DuplicateId(FinephraseError, exit_status=2):
    """Two rows of the input have the same id."""


class NoRows(FinephraseError, exit_status=2):
    """The input has no rows."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The content of the input.

    Attributes:
        files: paths or URLs, in the order given.
        limit: only the first so many rows are used; None: all.
        rows: the number of rows.
        digest: the hash of the set of rows.
        longest: UTF-8 bytes of the longest text.
        stamps: size and time of each file (`reader.stamp`), to detect that it changed.
    """

    files: tuple[str, ...]
    limit: int | None
    rows: int
    digest: str
    longest: int
    stamps: tuple[str, ...]


class RowSet:
    """A hash of a set of rows, computed row by row: the sum of the rows' hashes."""

    def __init__(self, rows: int = 0, total: int = 0) -> None:
        """Start with an empty set, or with the number of rows and the sum of a given one."""
        self.rows = rows
        self.sum = total
        self.longest = 0

    def add(self, row: InputRow) -> None:
        """Add a row: its id, its text, and the reason if it has none."""
        content = row.text.encode()
        self.longest = max(self.longest, len(content))
        text = hashlib.sha256(content).digest()
        digest = hashlib.sha256(b"%b\0%b%b" % (row.id.encode(), text, (row.skip or "").encode())).digest()
        self.sum += int.from_bytes(digest)
        self.rows += 1

    @property
    def digest(self) -> str:
        total = (self.sum % 2**256).to_bytes(32) + self.rows.to_bytes(8)
        return hashlib.sha256(total).hexdigest()[:SHORT]


def survey_input(files: Sequence[str], limit: int | None = None) -> Survey:
    """Read all rows once.

    Raises:
        InputUnreadable: a file cannot be read, or a row has no id.
        DuplicateId: two rows have the same id; the message names it.
        NoRows: the files hold no rows.
    """
    stamps = tuple(stamp(file) for file in files)
    content = RowSet()
    ids = IdSet()
    for row in _limited(files, limit):
        content.add(row)
        if not ids.add(id_hash(row.id)):
            raise DuplicateId(f"{', '.join(files)}: more than one row has the id {row.id!r}. Give each row its own id.")
    if not content.rows:
        raise NoRows(f"{', '.join(files) or 'the input'}: no rows. Name a file that has rows.")
    return Survey(
        files=tuple(files),
        limit=limit,
        rows=content.rows,
        digest=content.digest,
        longest=content.longest,
        stamps=stamps,
    )


def _limited(files: Sequence[str], limit: int | None) -> Iterator[InputRow]:
    left = limit
    for file in files:
        for row in rows_of(file, left):
            yield row
            left = None if left is None else left - 1
        if left == 0:
            return
