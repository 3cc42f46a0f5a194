"""The input rows of a rephrasing: one DataTrove document for every row of Parquet and JSONL files.

DataTrove's own readers drop rows without text, number rows without an id, and stop at bytes that are not UTF-8. This
reader yields every row, with the reason if it is skipped, so that each is accounted for. A row without an id cannot
be accounted for and is refused. Files are local or in any store that fsspec knows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseReader

from finephrase_dagster.artifacts.folder import stamp_of
from finephrase_dagster.corpora.document import CorpusError, row_id, text_flaw
from finephrase_dagster.corpora.inputs import JSONL
from finephrase_dagster.corpora.jsonl import BLANK_LINE, Place
from finephrase_dagster.corpora.object_store import file_system, reported
from finephrase_dagster.corpora.rows import check_ending, read_rows
from finephrase_dagster.corpora.table import ColumnMissing, as_text, may_have, missing_column, value_at
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.fields import MOST_SHOWN, shorten

COLUMNS = ("id", "text")
"""The columns of ids and texts, unless others are named; a dot leads into a struct."""

MAGIC = set("*?[")
MARK_ROWS = 5_000
FEWEST_PASSED = 5_000  # shorter stretches of rows that are done are read: opening a file again takes longer


class InputUnreadable(FinephraseError, exit_status=2):
    """A file cannot be read, lacks a column, or has a row without a usable id; the message names file and row."""


class InputRow(NamedTuple):
    """One row of the input.

    Attributes:
        skip: why the row has no text to send; None if it has one.
    """

    id: str
    text: str
    skip: str | None


def check_files(files: Sequence[str]) -> None:
    """Refuse input that cannot be read, as far as that shows without opening a file or asking a store.

    Raises:
        InputUnreadable: a name is a pattern or has an unknown ending, or a local path is a folder or does not exist.
    """
    for file in files:
        is_local = "://" not in file
        if is_local and Path(file).is_dir():
            names = sorted(path.name for path in Path(file).iterdir())
            ending = next((end for name in names for end in (".parquet", *JSONL) if name.endswith(end)), ".jsonl")
            raise InputUnreadable(
                f"{file}: is a folder; name its files, for example --input {file.rstrip('/')}/*{ending}"
            )
        if MAGIC & set(file) and not (Path(file).exists() if is_local else file.startswith("http")):
            raise InputUnreadable(
                f"{file}: patterns are expanded by the shell only; remove the quotes, or name the files"
            )
        try:
            check_ending(file)
        except CorpusError as error:
            raise InputUnreadable(str(error)) from error
        if is_local:
            stamp(file)
            if not Path(file).is_file():
                raise InputUnreadable(f"{file}: is a pipe or device, and input is read twice; write it to a file first")


@dataclass(frozen=True, kw_only=True)
class SurveyedFile:
    """What is known of a file that was read once.

    Attributes:
        stamp: its size and times; if they have not changed, neither has the file.
        rows: how many of its rows are used.
        total: the sum of the rows' hashes.
        longest: UTF-8 bytes of the longest text.
        order: a hash of the rows in order.
        marks: lines and bytes before every `MARK_ROWS`th row of a JSONL file, so that reading can begin there.
    """

    stamp: str
    rows: int
    total: int
    longest: int
    order: str
    marks: Sequence[tuple[int, int]] = ()


def rows_of(
    file: str,
    limit: int | None = None,
    *,
    columns: tuple[str, str] = COLUMNS,
    start: int = 0,
    marks: Sequence[tuple[int, int]] | None = None,
) -> Iterator[InputRow]:
    """Yield the rows of a Parquet or JSONL (plain, .gz, .zst) file, in order.

    Args:
        marks: see `SurveyedFile`; a list is completed while the file is read from its beginning.

    Raises:
        InputUnreadable: naming the file, and the row that is wrong; after the last row if none has a text.
    """
    fields: set[str] = set()
    ids, texts = columns
    place, count, has_id, has_text = Place(), 0, bool(start), bool(start)
    other: type | None = None  # of the texts, as long as none is a text
    skipped = start if file.endswith(".parquet") else 0
    if start and not skipped and marks:
        count = min(start // MARK_ROWS, len(marks) - 1) * MARK_ROWS
        place = Place(*marks[count // MARK_ROWS])
    elif skipped:
        count = start
    try:
        for row in read_rows(file, columns=columns, id_column=ids, start=skipped, place=place):
            if row.flaw == BLANK_LINE:
                continue
            if limit is not None and count >= limit:
                break
            if isinstance(marks, list) and count == MARK_ROWS * len(marks):
                marks.append((place.lines, place.bytes))
            count += 1
            if count <= start:
                continue
            where = f"{file}: row {row.number}"
            if row.values is None:
                raise InputUnreadable(f"{where} is {row.flaw} {row.detail}; write one JSON object per line")
            has_text = has_text or may_have(row.values, texts)
            if not has_text and len(fields) < MOST_SHOWN:
                fields |= row.values.keys()
            if not (has_id := has_id or may_have(row.values, ids)):
                raise missing_column(where, [one for one in columns if not may_have(row.values, one)], row.values)
            name = row_id(value_at(row.values, ids), ids, where)
            text: Any = as_text(row.values, texts)
            flaw = text_flaw(text)
            if other is None or isinstance(text, str | None):
                other = type(text)
            yield InputRow(name, "", str(flaw)) if flaw else InputRow(name, text, None)
    except CorpusError as error:
        lacking = error.names if isinstance(error, ColumnMissing) else ()
        options = [f"--{kind}-column" for kind, name in (("id", ids), ("text", texts)) if name in lacking]
        remedy = f". Name the right one with {' and '.join(options)}" if options else ""
        remedy += ", or give every row an id of its own." if options == ["--id-column"] else "." * bool(options)
        raise InputUnreadable(f"{error}{remedy}") from error
    if count and not has_text:
        names = shorten(sorted(fields)) or "none"
        raise InputUnreadable(
            f"{file}: no row has a field {texts!r}; its fields are {names}. Name it with --text-column."
        )
    if not start and other is not None and not issubclass(other, str | NoneType):
        raise InputUnreadable(
            f"{file}: {texts!r} has no texts, but values of the type {other.__name__}. Name another column with "
            "--text-column."
        )


def stamp(file: str) -> str:
    """Return what changes when a file changes: its size, times and inode, or the key that its store gives it.

    Raises:
        InputUnreadable: the file does not exist or cannot be read.
    """
    try:
        if "://" in file:
            store, path = file_system(file)
            with reported(file):
                return str(store.ukey(path))
        return " ".join(map(str, stamp_of(Path(file))))
    except FileNotFoundError as error:
        raise InputUnreadable(f"{file}: no such file; correct the path") from error
    except Exception as error:  # the libraries of object stores raise errors of their own
        raise InputUnreadable(f"{file}: cannot be read ({error}); check the path and your credentials") from error


class InputRows:
    """An iterator over the rows of files as documents, which does not read rows that it may pass.

    Attributes:
        next_needed: returns the first row of a file, from a given one on, that is needed; None: all are.
        passed: the number of rows that were not read.
    """

    def __init__(
        self,
        files: Mapping[int, str],
        limit: int | None,
        surveyed: Sequence[SurveyedFile],
        opened: Callable[[], None],
        columns: tuple[str, str] = COLUMNS,
    ) -> None:
        self._files, self._limit, self._surveyed, self._opened = files, limit, surveyed, opened
        self._columns = columns
        self.next_needed: Callable[[int, int], int] | None = None
        self.passed = 0

    def __iter__(self) -> Iterator[Document]:
        left = self._limit
        for shard, file in self._files.items():
            self._opened()
            if not self._surveyed:
                for row, content in enumerate(rows_of(file, left, columns=self._columns)):
                    yield document_of(shard, row, content)
                    left = None if left is None else left - 1
                if left == 0:
                    return
                continue
            row = 0
            while row < self._surveyed[shard].rows:
                row = yield from self._stretch(shard, file, self._pass(shard, row))

    def _pass(self, shard: int, row: int) -> int:
        """Return the next row to read, and count those that are passed."""
        needed = self._needed(shard, row)
        if needed - row < FEWEST_PASSED and needed < self._surveyed[shard].rows:
            return row
        self.passed += needed - row
        return needed

    def _needed(self, shard: int, row: int) -> int:
        return min(self.next_needed(shard, row), self._surveyed[shard].rows) if self.next_needed else row

    def _stretch(self, shard: int, file: str, row: int) -> Generator[Document, None, int]:
        """Yield documents from a row on, up to rows that can be passed; return the row after them."""
        surveyed = self._surveyed[shard]
        first = row
        if row >= surveyed.rows:
            return row
        for content in rows_of(file, surveyed.rows, columns=self._columns, start=row, marks=surveyed.marks):
            yield document_of(shard, row, content)
            row += 1
            if (row - first) % FEWEST_PASSED == 0 and self._needed(shard, row) - row >= FEWEST_PASSED:
                return row
        return surveyed.rows


def document_of(shard: int, row: int, content: InputRow) -> Document:
    """Return a row as a document, with its place in the input."""
    return Document(text=content.text, id=content.id, metadata={"shard": shard, "row": row, "skip": content.skip})


class InputReader(BaseReader):
    """Yields a document for every row of the files, in order.

    `metadata` holds `shard` (the index of the row's file), `row` (its index in the file) and `skip` (why the row has no
    text to send, or None).
    """

    name = "Rows"

    def __init__(
        self,
        files: Sequence[str],
        limit: int | None = None,
        surveyed: Sequence[SurveyedFile] = (),
        columns: tuple[str, str] = COLUMNS,
    ) -> None:
        """Describe what is read; nothing is opened yet.

        Args:
            limit: the number of rows to read, over all files.
            surveyed: the survey of each file; with it, rows that are done need not be read.
        """
        super().__init__()
        self._files = list(files)
        self._limit = limit
        self._surveyed = tuple(surveyed)
        self._columns = columns

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Read all files."""
        return InputRows(
            dict(enumerate(self._files)),
            self._limit,
            self._surveyed,
            lambda: self.stat_update("input_files"),
            self._columns,
        )
