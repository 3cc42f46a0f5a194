"""Parquet files: the columns that are needed, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.corpora.table import FileRow, check_schema, top_columns

BATCH = 1_000  # rows in memory at once


def parquet_rows(file: BinaryIO, where: str, columns: Sequence[str] | None, start: int) -> Iterator[FileRow]:
    """Yield the rows of a file, in order.

    Args:
        file: the open file.
        where: its path or URL, for messages.
        columns: the columns to read; a dot leads into a struct. Default: all.
        start: the number of rows to skip; row groups that hold nothing else are not read.

    Raises:
        CorpusError: a column is missing or ambiguous.
    """
    with pq.ParquetFile(file) as table:
        if columns is not None:
            check_schema(table.schema_arrow, columns, where)
            # Structs are read as a whole: Arrow would take a column with a dot in its name for a part of one.
            columns = top_columns(columns, table.schema_arrow.names)
        groups: list[int] = []
        number = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if groups or number + rows > start:
                groups.append(group)
            else:
                number += rows
        for batch in table.iter_batches(BATCH, row_groups=groups, columns=columns) if groups else ():
            skipped = min(max(start - number, 0), len(batch))
            yield from table_rows(pa.Table.from_batches([batch.slice(skipped)]), number + skipped + 1)
            number += len(batch)


def table_rows(table: pa.Table, number: int) -> Iterator[FileRow]:
    """Yield the rows of a table, the first of which is row `number` of its file."""
    names = table.column_names
    for values in zip(*(_values(column) for column in table.columns), strict=True):
        yield FileRow(number, dict(zip(names, values, strict=True)))
        number += 1


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values, text as strings even if it is not UTF-8."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        # As bytes, because Arrow stops at the first text that is not UTF-8.
        column = column.cast(kind).cast(pa.large_binary())
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        return column.to_pylist()
    return [value if value is None else value.decode("utf-8", "surrogateescape") for value in column.to_pylist()]
