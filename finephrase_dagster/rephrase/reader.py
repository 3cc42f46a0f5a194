"""The input rows of a rephrasing: one DataTrove document for every row of Parquet and JSONL files.

DataTrove's own readers drop rows without text, number rows without an id, and stop at bytes that are not UTF-8. This
reader yields every row, with the reason if it is skipped, so that each is accounted for. A row without an id cannot
be accounted for and is refused. Files are local or in any store that fsspec knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseReader

from finephrase_dagster.corpora.document import CorpusError, row_id, text_flaw
from finephrase_dagster.corpora.jsonl import BLANK_LINE
from finephrase_dagster.corpora.rows import check_ending, read_rows
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.fields import MOST_SHOWN, shorten

COLUMNS = ("id", "text")
MAGIC = set("*?[")


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
            raise InputUnreadable(
                f"{file}: is a folder; name its files, for example --input {file.rstrip('/')}/*.jsonl"
            )
        if MAGIC & set(file) and not (Path(file).exists() if is_local else file.startswith("http")):
            raise InputUnreadable(f"{file}: patterns are expanded by the shell only; name the files")
        try:
            check_ending(file)
        except CorpusError as error:
            raise InputUnreadable(str(error)) from error
        if is_local:
            stamp(file)


def rows_of(file: str, limit: int | None = None) -> Iterator[InputRow]:
    """Yield the rows of a Parquet or JSONL (plain, .gz, .zst) file, in order.

    Args:
        file: its path or URL.
        limit: read only the first so many rows.

    Raises:
        InputUnreadable: naming the file, and the row that is wrong; after the last row if none has a field `text`.
    """
    fields: set[str] = set()
    count, has_text = 0, False
    try:
        for row in read_rows(file, columns=COLUMNS, id_column="id"):
            if row.flaw == BLANK_LINE:
                continue
            if count == limit:
                break
            count += 1
            where = f"{file}: row {row.number}"
            if row.values is None:
                raise InputUnreadable(f"{where} is {row.flaw} {row.detail}; write one JSON object per line")
            has_text = has_text or "text" in row.values
            if not has_text and len(fields) < MOST_SHOWN:
                fields |= row.values.keys()
            name = row_id(row.values.get("id"), "id", where)
            text: Any = row.values.get("text")
            flaw = text_flaw(text)
            yield InputRow(name, "", str(flaw)) if flaw else InputRow(name, text, None)
    except CorpusError as error:
        raise InputUnreadable(str(error)) from error
    if count and not has_text:
        names = shorten(sorted(fields)) or "none"
        raise InputUnreadable(f"{file}: no row has a field 'text'; its fields are {names}. Rename the field.")


def stamp(file: str) -> str:
    """Return what changes when a file changes: its size and time, or the key that its store gives it.

    Raises:
        InputUnreadable: the file does not exist or cannot be read.
    """
    try:
        if "://" in file:
            store, path = fsspec.core.url_to_fs(file)
            return str(store.ukey(path))
        status = Path(file).stat()
    except FileNotFoundError as error:
        raise InputUnreadable(f"{file}: no such file; correct the path") from error
    except Exception as error:  # the libraries of object stores raise errors of their own
        raise InputUnreadable(f"{file}: cannot be read ({error}); check the path and your credentials") from error
    return f"{status.st_size} {status.st_mtime_ns}"


class InputReader(BaseReader):
    """Yields a document for every row of this task's files, in order.

    `metadata` holds `shard` (the index of the row's file) and `skip` (why the row has no text to send, or None).
    """

    name = "Rows"

    def __init__(self, files: Sequence[str], limit: int | None = None) -> None:
        """Describe what is read; nothing is opened yet.

        Args:
            files: all files; a task reads every `world_size`-th of them.
            limit: the number of rows to read, over all files; a run of several tasks has no limit.
        """
        super().__init__()
        self._files = list(files)
        self._limit = limit

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Read the files `rank`, `rank + world_size` and so on."""
        left = self._limit
        for shard in range(rank, len(self._files), world_size):
            self.stat_update("input_files")
            for row in rows_of(self._files[shard]):
                if left is not None:
                    if not left:
                        return
                    left -= 1
                yield Document(text=row.text, id=row.id, metadata={"shard": shard, "skip": row.skip})
