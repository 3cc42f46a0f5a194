"""Parquet files: the columns that are needed, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.table import FileRow, check_id_type, check_schema, holds_text, top_columns

BATCH = 1_000  # most rows in memory at once
BATCH_BYTES = 128 << 20  # about the most bytes in memory at once
_REPEATED = 64  # most rows at once where a value that is stored once may be that of every row
_LARGEST_PACKED = 512 << 20  # bytes of a column in a row group, if they are packed as no text can be
_DENSEST = 1_000  # times that texts are made smaller by packing; usual are 2 to 10
_SUSPICIOUS = 50  # times that a column may shrink before its largest value is taken to be as large as all of it


def parquet_rows(
    file: BinaryIO, where: str, columns: Sequence[str] | None, id_column: str | None, start: int
) -> Iterator[FileRow]:
    """Yield the rows of a file, in order.

    Args:
        where: its path or URL, for messages.
        columns: the columns to read; a dot leads into a struct. Default: all.
        id_column: the column of the ids, whose type is checked.
        start: the number of rows to skip; row groups that hold nothing else are not read.

    Raises:
        CorpusError: a column is missing or ambiguous, or ids are of a type that no id has.
    """
    with pq.ParquetFile(file, page_checksum_verification=True) as table:
        if columns is not None:
            check_schema(table.schema_arrow, columns, where)
            # Structs are read as a whole: Arrow would take a column with a dot in its name for a part of one.
            columns = top_columns(columns, table.schema_arrow.names)
        if id_column is not None:
            check_id_type(table.schema_arrow, id_column, where)
        groups: list[int] = []
        number = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if groups or number + rows > start:
                groups.append(group)
            else:
                number += rows
        rows = _batch_rows(table.metadata, groups, columns, where)
        for batch in table.iter_batches(rows, row_groups=groups, columns=columns) if groups else ():
            skipped = min(max(start - number, 0), len(batch))
            yield from _table_rows(pa.Table.from_batches([batch.slice(skipped)]), number + skipped + 1)
            number += len(batch)


def footer_size(path: str, columns: Sequence[str]) -> tuple[int, int]:
    """Return the number of rows of a file and the uncompressed bytes of some columns, as its footer states them.

    Raises:
        OSError, ValueError: the file cannot be read, or is not a Parquet file.
    """
    footer = pq.read_metadata(path)
    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    return footer.num_rows, sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)


def _batch_rows(metadata: pq.FileMetaData, groups: Sequence[int], columns: Sequence[str] | None, where: str) -> int:
    """Return how many rows can be in memory at once, judged by the sizes that the file states.

    Raises:
        CorpusError: a small column becomes so large that it cannot be text; Arrow unpacks up to 2 GiB of it at once.
    """
    rows = BATCH
    for group in map(metadata.row_group, groups):
        for index in range(group.num_columns):
            chunk = group.column(index)
            if columns is not None and not any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns):
                continue
            size = chunk.total_uncompressed_size
            if size > max(_LARGEST_PACKED, _DENSEST * chunk.total_compressed_size):
                raise CorpusError(
                    f"{where}: column {chunk.path_in_schema!r} has {size:,} bytes, packed into "
                    f"{chunk.total_compressed_size:,}, which no text can be; replace the file"
                )
            if chunk.has_dictionary_page:
                rows = min(rows, _REPEATED)
            if not (chunk.has_dictionary_page and size > _SUSPICIOUS * chunk.total_compressed_size):
                size //= max(group.num_rows, 1)
            rows = min(rows, max(BATCH_BYTES // max(size, 1), 1))
    return rows


def _table_rows(table: pa.Table, number: int) -> Iterator[FileRow]:
    """Yield the rows of a table, the first of which is row `number` of its file."""
    names = table.column_names
    for values in zip(*(_values(column) for column in table.columns), strict=True):
        yield FileRow(number, dict(zip(names, values, strict=True)))
        number += 1


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values, text as strings even if it is not UTF-8."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if holds_text(kind):
        # As bytes, because Arrow stops at the first text that is not UTF-8.
        column = column.cast(kind).cast(pa.large_binary())
    else:
        return column.to_pylist()
    return [value if value is None else value.decode("utf-8", "surrogateescape") for value in column.to_pylist()]
