"""The input rows: DataTrove documents of Parquet and JSONL files, one for every row.

DataTrove's readers drop rows without text, number what has no id and stop at bytes that are not UTF-8. These
yield every row, with the reason why it is skipped, so that each can be accounted for; a row without an id
cannot, and is refused. Files are local or on any store that fsspec knows.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseReader

from finephrase_dagster.errors import FinephraseError

CODECS = {".gz": "gzip", ".zst": "zstd"}
JSONL = (".jsonl", ".ndjson", ".json")
BATCH_ROWS = 500
COLUMNS = ("id", "text")


class InputUnreadable(FinephraseError, exit_status=2):
    """A file that cannot be read, lacks a column, or has a row that no account can name."""


class Row(NamedTuple):
    """One input row: its text, or why it has none that could be sent."""

    id: str
    text: str
    skip: str | None


def rows_of(file: str) -> Iterator[Row]:
    """The rows of a Parquet or JSONL (plain, .gz, .zst) file, in order.

    Raises:
        InputUnreadable: naming the file, and the row where one is to blame.
    """
    plain = next((file.removesuffix(ending) for ending in CODECS if file.endswith(ending)), file)
    try:
        if file.endswith(".parquet"):
            yield from _parquet_rows(file)
        elif plain.endswith(JSONL):
            yield from _jsonl_rows(file, CODECS.get(file.removeprefix(plain)))
        else:
            raise InputUnreadable(f"{file}: neither .parquet nor .jsonl (plain, .gz, .zst); convert it to one")
    except FileNotFoundError as error:
        raise _missing(file) from error
    except InputUnreadable:
        raise
    except (pa.ArrowException, EOFError, OSError, UnicodeDecodeError, KeyError) as error:
        raise InputUnreadable(f"{file}: cannot be read ({error}); replace the file") from error
    except Exception as error:  # each store's library has errors of its own
        if "://" not in file:
            raise
        raise InputUnreadable(
            f"{file}: cannot be read ({error}); see that the store answers and lets you in"
        ) from error


def _missing(file: str) -> InputUnreadable:
    return InputUnreadable(f"{file}: there is no such file; correct the path")


def stamp(file: str) -> str:
    """What changes when a file does: size and time, or what its store says of it.

    Raises:
        InputUnreadable: it is not there.
    """
    try:
        if "://" in file:
            store, path = fsspec.core.url_to_fs(file)
            return str(store.ukey(path))
        found = Path(file).stat()
    except FileNotFoundError as error:
        raise _missing(file) from error
    except Exception as error:  # each store's library has errors of its own
        raise InputUnreadable(f"{file}: cannot be read ({error}); see that it can be, and run again") from error
    return f"{found.st_size} {found.st_mtime_ns}"


class InputReader(BaseReader):
    """Yields a document for every row of this task's files, in order.

    `metadata` holds `shard` (the place of its file) and `skip` (None, or why it has no text).
    """

    name = "Rows"

    def __init__(self, files: Sequence[str], limit: int | None = None) -> None:
        """Describes it.

        Args:
            files: all files; a task reads every `world_size`-th of them.
            limit: rows of all files together, from the first; with more tasks than one, there is none.
        """
        super().__init__()
        self._files = list(files)
        self._rows_at_most = limit

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Reads files `rank`, `rank + world_size` and so on."""
        left = self._rows_at_most
        for shard in range(rank, len(self._files), world_size):
            self.stat_update("input_files")
            for row in rows_of(self._files[shard]):
                if left is not None:
                    if not left:
                        return
                    left -= 1
                yield Document(text=row.text, id=row.id, metadata={"shard": shard, "skip": row.skip})


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if "://" in file:
        with fsspec.open(file, "rb") as opened:
            yield opened
    else:
        with Path(file).open("rb") as opened:
            yield opened


def _jsonl_rows(file: str, codec: str | None) -> Iterator[Row]:
    with _opened(file) as opened:
        # Arrow reads a compressed file to its end, all frames of it, and says when it was cut off.
        lines: Any = io.BufferedReader(pa.CompressedInputStream(opened, codec), 1 << 20) if codec else opened
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line or line.isspace():
                continue
            values, flaw = _parsed(line)
            if not isinstance(values, dict):
                raise InputUnreadable(f"{file}: row {number} is not a JSON object ({flaw}); correct or remove it")
            yield _row(values.get("id"), values.get("text"), flaw, file, number)


def _parsed(line: bytes) -> tuple[Any, str]:
    """A line's JSON value; one with bytes that are not UTF-8 is read all the same, for its id."""
    try:
        return orjson.loads(line), ""
    except orjson.JSONDecodeError as error:
        flaw = str(error)
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        flaw = f"text is not UTF-8 (byte {error.start} of its line)"
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line.decode("utf-8", "replace")), flaw
    return None, flaw


def _parquet_rows(file: str) -> Iterator[Row]:
    with _opened(file) as opened, pq.ParquetFile(opened) as table:
        names = table.schema_arrow.names
        if missing := [column for column in COLUMNS if column not in names]:
            raise InputUnreadable(f"{file}: has no column {missing[0]!r}; there are {', '.join(names) or 'none'}")
        number = 0
        for batch in table.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            texts = batch.column("text")
            if pa.types.is_dictionary(texts.type):
                texts = texts.dictionary_decode()
            if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
                # As bytes, since one row that is not UTF-8 would otherwise stop the whole batch.
                texts = texts.cast(pa.binary() if pa.types.is_string(texts.type) else pa.large_binary())
            for name, text in zip(batch.column("id").to_pylist(), texts.to_pylist(), strict=True):
                number += 1
                flaw = ""
                if isinstance(text, bytes):
                    try:
                        text = text.decode("utf-8")
                    except UnicodeDecodeError as error:
                        flaw = f"text is not UTF-8 (byte {error.start})"
                yield _row(name, text, flaw, file, number)


def _row(name: Any, text: Any, flaw: str, file: str, number: int) -> Row:
    if flaw.startswith("text is not UTF-8") and isinstance(name, str) and "\ufffd" in name:
        raise InputUnreadable(f"{file}: row {number} has an id that is not UTF-8; correct it")
    row_id = _id(name, file, number)
    if flaw.startswith("text"):
        return Row(row_id, "", flaw)
    if text is None:
        return Row(row_id, "", "text is missing")
    if not isinstance(text, str):
        return Row(row_id, "", f"text is not a string but {type(text).__name__}")
    if flaw:  # only what the stricter parser refused can hold half a pair
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return Row(row_id, "", f"text is not UTF-8 (character {error.start} is half of a pair)")
    return Row(row_id, text, None if text.strip() else "text is empty")


def _id(name: Any, file: str, number: int) -> str:
    where = f"{file}: row {number}"
    if isinstance(name, bytes):
        try:
            name = name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputUnreadable(f"{where} has an id that is not UTF-8; correct it") from error
    if name is None or (isinstance(name, str) and not name.strip()):
        raise InputUnreadable(f"{where} has no id; give every row an id of its own")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise InputUnreadable(f"{where} has the id {str(name)[:60]!r}; an id is a string or a whole number")
    try:
        str(name).encode()
    except UnicodeEncodeError as error:
        raise InputUnreadable(f"{where} has an id that is not UTF-8; correct it") from error
    return str(name)
