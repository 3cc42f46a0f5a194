"""The rows of a Parquet file: the columns that are needed, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import Row

BATCH = 1_000  # rows that are in memory at once


def parquet_rows(file: BinaryIO, columns: Columns, where: str, start: int) -> Iterator[Row]:
    """The rows behind the first `start`; row groups that lie behind are not read.

    Raises:
        CorpusError: a column is missing, or a row has text but no id.
    """
    with pq.ParquetFile(file) as table:
        columns.check(table.schema_arrow, where)
        groups: list[int] = []
        behind = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if behind + rows > start or groups:
                groups.append(group)
            else:
                behind += rows
        number = behind
        # A struct is read whole: Arrow would take a column with a dot in its name for a part of one.
        tops = columns.tops(table.schema_arrow.names)
        for batch in table.iter_batches(BATCH, row_groups=groups, columns=tops) if groups else ():
            skipped = min(max(start - number, 0), len(batch))
            number += len(batch)
            if skipped < len(batch):
                left = pa.Table.from_batches([batch.slice(skipped)])
                yield from columns.table_rows(left, where, number - len(left) + 1)
