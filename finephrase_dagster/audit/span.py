"""Spans: consecutive rows of a file, so that several processes can each read a part of a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.corpora.document import CorpusError, row_id
from finephrase_dagster.corpora.jsonl import BLANK_LINE, Place
from finephrase_dagster.corpora.rows import JSON_ENDINGS, read_rows
from finephrase_dagster.corpora.table import FileRow, as_text

CHUNK_ROWS, CHUNK_CHARACTERS = 4_000, 4 << 20  # most rows and about the most characters that are in memory at once
_BLOCK = 1 << 22  # bytes
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive rows of a file.

    Attributes:
        columns: the columns of a Parquet file that are read.
        id_column: the column of the ids; None if a row's number takes their place.
        prefix: precedes such a number if there are several files.
        start: the number of rows (in a JSONL file: lines) before it.
        end: the number of its last row; None for the end of the file.
        offset: the bytes before it, in a JSONL file that is not compressed.
        size: about its bytes.
    """

    url: str
    columns: tuple[str, ...]
    id_column: str | None = "id"
    prefix: str = ""
    start: int = 0
    end: int | None = None
    offset: int = 0
    size: int = 0

    def file_rows(self) -> Iterator[FileRow]:
        """Yield its rows without blank lines.

        Raises:
            CorpusError: the file cannot be read, or a line is not a JSON object.
        """
        place = Place(self.start, self.offset) if self.offset else None
        for row in read_rows(self.url, columns=self.columns, id_column=self.id_column, start=self.start, place=place):
            if self.end is not None and row.number > self.end:
                return
            if row.values is not None:
                yield row
            elif row.flaw != BLANK_LINE:
                flaw = f"{row.flaw} {row.detail}".rstrip()
                raise CorpusError(f"{self.url}: row {row.number} is {flaw}; correct or remove the line")

    def ids(self) -> Iterator[tuple[str, int]]:
        """Yield the ids of its rows, each with the row's number."""
        only = replace(self, columns=(self.id_column,)) if self.id_column else self
        return ((self._id(row), row.number) for row in only.file_rows())

    def rows(self) -> Iterator[AuditedRow]:
        """Yield its rows.

        Raises:
            CorpusError: see `file_rows`; or a row has no id, or a text that is not a string.
        """
        for row in self.file_rows():
            text, source_text = (self._text(row, name) for name in ("text", "source_text"))
            reason = row.values["finish_reason"] if row.values and "finish_reason" in row.values else None
            yield AuditedRow(self._id(row), text or "", reason if isinstance(reason, str) else None, source_text)

    def _id(self, row: FileRow) -> str:
        if self.id_column is None:
            return f"{self.prefix}{row.number}"
        value = (row.values or {}).get(self.id_column)
        return value if value.__class__ is str and value else row_id(value, self.id_column, self._place(row))

    def _text(self, row: FileRow, column: str) -> str | None:
        text = as_text(row.values or {}, column)
        if text is None:
            return None
        if not isinstance(text, str):
            raise CorpusError(
                f"{self._place(row)} has no text in column {column!r} but {type(text).__name__}; convert the column to "
                "strings"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            return _SURROGATE.sub("\ufffd", text)
        return text

    def _place(self, row: FileRow) -> str:
        return f"{self.url}: row {row.number}"


def chunks(rows: Iterator[AuditedRow]) -> Iterator[list[AuditedRow]]:
    """Yield rows in chunks that fit into memory."""
    chunk: list[AuditedRow] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(row.text)
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def divide(files: Sequence[Span], parts: int) -> list[list[Span]]:
    """Divide files into consecutive parts of about the same size, each a list of spans; at most `parts` of them.

    A compressed JSONL file is not divided.
    """
    total, before = sum(file.size for file in files), 0
    divided: list[list[Span]] = [[] for _ in range(parts)]
    for file in files:
        cuts = [total * part // parts - before for part in range(1, parts)]
        first = sum(cut <= 0 for cut in cuts)
        inside = [cut for cut in cuts if 0 < cut < file.size]
        for index, span in enumerate(_cut(file, inside), first):
            divided[index].append(span)
        before += file.size
    return [part for part in divided if part]


def _cut(file: Span, cuts: Sequence[int]) -> list[Span]:
    """Cut a file near these bytes; a file that cannot be cut or read stays whole."""
    places = [(0, 0)]
    with suppress(OSError, pa.ArrowException):
        if cuts and file.url.endswith(".parquet"):
            rows = pq.ParquetFile(file.url).metadata.num_rows
            places += [(rows * cut // file.size, 0) for cut in cuts]
        elif cuts and file.url.endswith(JSON_ENDINGS):
            places += list(_line_ends(Path(file.url), cuts))
    ends = [*(start for start, _ in places[1:]), None]
    spans = [
        replace(file, start=start, offset=offset, end=end) for (start, offset), end in zip(places, ends, strict=True)
    ]
    return [span for span in spans if span.end is None or span.end > span.start]


def _line_ends(path: Path, cuts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first end of a line after each of some bytes: the number of lines and of bytes up to it."""
    lines = position = 0
    with path.open("rb") as file:
        for cut in cuts:
            while position < cut and (block := file.read(min(_BLOCK, cut - position))):
                lines, position = lines + block.count(b"\n"), position + len(block)
            if rest := file.readline():
                lines, position = lines + 1, position + len(rest)
            yield lines, position
