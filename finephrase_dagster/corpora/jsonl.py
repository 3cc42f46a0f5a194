"""JSONL files: one JSON object per line."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.table import FileRow, value_at

BLANK_LINE = "blank line"
NOT_JSON = "not valid JSON"
NOT_AN_OBJECT = "not a JSON object"
LONGEST_LINE = 256 << 20  # bytes; a longer one is no document, and a small compressed file can hold it
_READ_AHEAD = 1 << 20  # bytes
_INT_DIGITS = 4_000  # Python reads longer whole numbers in quadratic time, or not at all
_OF_TEXT = bytes([*range(7, 14), 27, *range(32, 256)])  # other bytes are in no text, whatever its encoding
_NAMES = {list: "a list", str: "a string", type(None): "null", bool: "true or false"}


@dataclass(slots=True)
class Place:
    """A place in a file: the number of lines before it, and their bytes (uncompressed)."""

    lines: int = 0
    bytes: int = 0


def jsonl_rows(
    file: BinaryIO, where: str, codec: str | None, id_column: str | None, start: int, place: Place | None = None
) -> Iterator[FileRow]:
    """Yield the lines of a file, in order.

    Args:
        where: its path or URL, for messages.
        codec: how it is compressed: `gzip`, `zstd` or None.
        id_column: the column whose whole numbers are kept exact, however large they are.
        start: the number of lines to skip; they are read but not parsed.
        place: where to begin; updated to the place of each line before it is yielded.

    Raises:
        CorpusError: a line is too long or begins with a byte-order mark, or no line of the file is a JSON object.
    """
    # Arrow reads all frames of a compressed file and notices when it is cut off.
    stream: Any = pa.CompressedInputStream(file, codec) if codec else file
    lines = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, _READ_AHEAD)
    place = place or Place()
    _skip(lines, place.bytes, is_seekable=codec is None)
    end = place.bytes
    has_object, first = start > 0 or place.lines > 0, None
    for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), b""), place.lines + 1):
        if len(line) == LONGEST_LINE:
            raise CorpusError(f"{where}: row {number} is longer than {LONGEST_LINE >> 20} MiB; leave it out")
        place.lines, place.bytes = number - 1, end
        end += len(line)
        if number <= start:
            continue
        row = _row(number, line, where, id_column)
        has_object = has_object or row.values is not None
        if first is None and row.flaw != BLANK_LINE:
            first = row
        yield row
    if not has_object and first is not None:
        raise CorpusError(
            f"{where}: no line is a JSON object; row {first.number} is {first.flaw} {first.detail}. "
            "Write one JSON object per line."
        )


def _row(number: int, line: bytes, where: str, id_column: str | None) -> FileRow:
    if line.startswith(codecs.BOM_UTF8):
        if number > 1:
            raise CorpusError(f"{where}: row {number} begins with a byte-order mark (bytes EF BB BF); remove it")
        line = line.removeprefix(codecs.BOM_UTF8)
    if line.isspace() or not line:
        return FileRow(number, None, BLANK_LINE)
    try:
        values = _parse(line, id_column)
    except RecursionError:
        return FileRow(number, None, NOT_JSON, "(nested too deeply)")
    except ValueError as error:
        if line.translate(None, _OF_TEXT):
            return FileRow(number, None, NOT_JSON, "(the file is not a text file, or is damaged)")
        whole = number == 1 and line.strip() in (b"[", b"{")
        return FileRow(number, None, NOT_JSON, "(one value over several lines)" if whole else f"({error})")
    if isinstance(values, dict):
        return FileRow(number, values)
    return FileRow(number, None, NOT_AN_OBJECT, f"but {_NAMES.get(type(values), 'a number')}")


def _skip(file: Any, count: int, *, is_seekable: bool) -> None:
    """Move a file forward by a number of bytes."""
    if is_seekable and count:
        file.seek(count)
        return
    while count and (data := file.read(min(count, _READ_AHEAD))):
        count -= len(data)


def _parse(line: bytes, id_column: str | None) -> Any:
    """Parse a line fast, and slowly where only Python's parser reads it.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        # NaN, halves of surrogate pairs and bytes that are not UTF-8 affect their own value only.
        try:
            return json.loads(line.decode("utf-8", "surrogateescape"), parse_int=_whole)
        except ValueError:
            raise ValueError(str(error)) from error
    if id_column is not None and isinstance(values, dict) and isinstance(value_at(values, id_column), float):
        return json.loads(line, parse_int=_whole)  # orjson reads whole numbers above 64 bits as floats
    return values


def _whole(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < _INT_DIGITS else Decimal(digits)
