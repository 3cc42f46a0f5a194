"""Helpers for the tests of corpora: sources of every kind, and readers of listed rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.corpora.document import Document, Dropped, Row
from finephrase_dagster.corpora.kinds.files import FilesSource
from finephrase_dagster.corpora.reader import ListedReader
from finephrase_dagster.corpora.source import SourceReader, read_source
from finephrase_dagster.study.source import SourceSpec

TEXTS = ("text", "id", "dump", "url", "language")
FINEWEB = pa.schema(
    [
        *((name, pa.string()) for name in TEXTS),
        ("language_score", pa.float64()),
        ("token_count", pa.int64()),
        ("score", pa.float64()),
        ("int_score", pa.int64()),
    ]
)
LIST = Path(__file__).parents[1] / "requirements" / "cpu.txt"


def read(source: SourceSpec, requirements: Path = LIST) -> list[Row]:
    """All rows of a source."""
    return list(read_source(source, "tried", requirements=requirements).rows())


def documents(rows: Iterable[Row]) -> list[Document]:
    return [row for row in rows if isinstance(row, Document)]


def reasons(rows: Iterable[Row]) -> list[str]:
    return [row.reason for row in rows if isinstance(row, Dropped)]


def files(*paths: Path | str, id_column: str | None = "id", **more: Any) -> FilesSource:
    return FilesSource(kind="files", paths=tuple(map(str, paths)), id_column=id_column, **more)


def made(count: int) -> list[Document]:
    return [Document(id=f"d{index}", text=f"Text {index} — ü", source="made") for index in range(count)]


def listed(rows: Sequence[Row], name: str = "made", **more: Any) -> SourceReader:
    """A source of these rows."""
    return SourceReader(ListedReader(lambda: rows, "made"), name, **more)


def fineweb(rows: range) -> pa.Table:
    """Rows with the columns of FineWeb-Edu; the scores go round from 0 to 5."""
    return pa.table(
        {
            "text": [f"Page {row} tells of rivers." for row in rows],
            "id": [f"<urn:uuid:{row:08d}>" for row in rows],
            "dump": ["CC-MAIN-2024-10"] * len(rows),
            "url": [f"https://example.org/{row}" for row in rows],
            "language": ["en"] * len(rows),
            "language_score": [0.9] * len(rows),
            "token_count": [10 + row % 7 for row in rows],
            "score": [row % 6 + 0.2 for row in rows],
            "int_score": [row % 6 for row in rows],
        },
        schema=FINEWEB,
    )


def write_fineweb(folder: Path, sizes: Sequence[int], *, row_group: int = 10) -> int:
    """A folder in the layout of FineWeb-Edu on the hub, with a file for every size; gives the number of rows."""
    first = 0
    for index, size in enumerate(sizes):
        path = folder / "data" / "CC-MAIN-2024-10" / f"train-{index:05d}-of-{len(sizes):05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(fineweb(range(first, first + size)), path, row_group_size=row_group)
        first += size
    return first


def make_unreadable(path: Path) -> None:
    """Puts rubbish in a file's place that looks unchanged by size and time."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def blank_column(path: Path, *, group: int, column: int) -> None:
    """Puts zeros in the place of a column of a row group, so that whoever reads it fails."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = bytes(
        chunk.total_compressed_size
    )
    path.write_bytes(data)
