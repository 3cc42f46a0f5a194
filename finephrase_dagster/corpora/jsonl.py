"""JSONL files: one JSON object per line."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from finephrase_dagster.corpora.table import FileRow, value_at

BLANK_LINE = "blank line"
NOT_JSON = "not valid JSON"
NOT_AN_OBJECT = "not a JSON object"
_READ_AHEAD = 1 << 20  # bytes
_NAMES = {list: "a list", str: "a string", type(None): "null", bool: "true or false"}


@dataclass(slots=True)
class Place:
    """A place in a file: the number of lines before it, and their bytes (uncompressed)."""

    lines: int = 0
    bytes: int = 0


def jsonl_rows(
    file: BinaryIO, codec: str | None, id_column: str | None, start: int, place: Place | None = None
) -> Iterator[FileRow]:
    """Yield the lines of a file, in order.

    Args:
        file: the open file.
        codec: how it is compressed: `gzip`, `zstd` or None.
        id_column: the column whose whole numbers are kept exact, however large they are.
        start: the number of lines to skip; they are read but not parsed.
        place: where to begin; updated to the place of each line before it is yielded.
    """
    # Arrow reads all frames of a compressed file and notices when it is cut off.
    lines: Any = io.BufferedReader(pa.CompressedInputStream(file, codec), _READ_AHEAD) if codec else file
    place = place or Place()
    _skip(lines, place.bytes, is_seekable=codec is None)
    end = place.bytes
    for number, line in enumerate(lines, place.lines + 1):
        place.lines, place.bytes = number - 1, end
        end += len(line)
        if number <= start:
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.isspace() or not line:
            yield FileRow(number, None, BLANK_LINE)
            continue
        try:
            values = _parse(line, id_column)
        except (ValueError, RecursionError) as error:
            yield FileRow(number, None, NOT_JSON, f"({error})")
            continue
        if isinstance(values, dict):
            yield FileRow(number, values)
        else:
            yield FileRow(number, None, NOT_AN_OBJECT, f"but {_NAMES.get(type(values), 'a number')}")


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
            return json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError:
            raise ValueError(str(error)) from error
    if id_column is not None and isinstance(values, dict) and isinstance(value_at(values, id_column), float):
        return json.loads(line)  # orjson reads whole numbers above 64 bits as floats
    return values
