"""The lines of a JSONL file, as bytes, so that a bad byte costs its own line alone."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import Dropped, Row

CODECS = {".gz": "gzip", ".zst": "zstd"}
_READ_AHEAD = 1 << 20  # bytes


def jsonl_rows(file: BinaryIO, columns: Columns, where: str, start: int) -> Iterator[Row]:
    """The lines behind the first `start`, which are read and not parsed.

    Raises:
        CorpusError: the first object lacks a column, or a row has text but no id.
    """
    codec = next((codec for ending, codec in CODECS.items() if where.endswith(ending)), None)
    # Arrow reads a compressed file to its end, all frames of it, and says when it was cut off.
    lines: Any = io.BufferedReader(pa.CompressedInputStream(file, codec), _READ_AHEAD) if codec else file
    checked = start > 0
    for number, line in enumerate(lines, 1):
        if number <= start:
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            yield Dropped(source=where, reason="blank line")
            continue
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            yield Dropped(source=where, reason="not valid JSON")
            continue
        if not isinstance(values, dict):
            yield Dropped(source=where, reason="not a JSON object")
            continue
        if not checked:
            columns.check_row(values, where)
            checked = True
        yield columns.row(values, where, number)
