"""The rows that fail an audit, each with the gate and the reason: a second pass over the dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.audit.audit import Audit, read_part
from finephrase_dagster.audit.gate import AuditedDataset, Measure
from finephrase_dagster.audit.parallel import run_all
from finephrase_dagster.audit.shared_words import share_words
from finephrase_dagster.audit.source_texts import SourceTexts
from finephrase_dagster.audit.span import Span

MOST_WAITING = 10_000  # failing rows that are kept until they are written
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "gate", "reason")])


def write_failing_rows(audit: Audit, path: Path) -> int:
    """Write a Parquet file with one row per failing row and gate, completely or not at all; return their number.

    The failing completions come first, in the order of the dataset.
    """
    parts = [audit.folder / f"failing-{index}.parquet" for index in range(len(audit.parts))]
    tasks = [(audit.dataset, audit.measures, *part, target) for part, target in zip(audit.parts, parts, strict=True)]
    run_all(_find, tasks)
    count = 0
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    writer.write_table(table)
                    count += len(table)
        for name, measure in audit.measures.items():
            others = [(row.id, name, row.reason) for row in measure.failing_others()]
            writer.write_table(_table(others))
            count += len(others)
    return count


def _find(
    dataset: AuditedDataset,
    measures: Mapping[str, Measure],
    spans: Sequence[Span],
    sources: SourceTexts | None,
    path: Path,
) -> None:
    """Write the failing rows of one part."""
    for measure in measures.values():
        measure.dataset = dataset
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        failing: list[tuple[str, str, str]] = []
        for chunk in read_part(dataset, spans, sources):
            share_words(chunk)
            suspects = [
                (place, name)
                for name, measure in measures.items()
                for place in compress(range(len(chunk)), measure.may_fail(chunk))
            ]
            for place, name in sorted(suspects, key=itemgetter(0)):
                if (reason := measures[name].flaw(chunk[place])) is not None:
                    failing.append((chunk[place].id, name, reason))
            if len(failing) >= MOST_WAITING:
                writer.write_table(_table(failing))
                failing.clear()
        writer.write_table(_table(failing))


def _table(rows: Sequence[tuple[str, str, str]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=SCHEMA)
