"""The export: the rows of some synthetic datasets as Parquet files of bounded size, each row with its origin.

Rows are streamed, so memory does not grow with them. A journal records every finished file, so that an interrupted
export resumes after its last file and ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import Contents, atomic_write
from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.release import origin_columns, release_artifact
from finephrase_dagster.artifacts.verification import check_artifact
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.corpora.shards import HashedFile
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.release.content import COLUMNS, SCHEMA, ContentHash
from finephrase_dagster.rephrase.chunks import chunk_of, place_of
from finephrase_dagster.train.admission import dropped_rows

JOURNAL, LINEAGE = f"{META}/export.jsonl", f"{META}/lineage.jsonl"
BATCH_ROWS = 4_096
ROW_GROUP_BYTES = 32 << 20  # of a row group in memory, unless one batch is larger
OVERHEAD_BYTES = 8 << 10  # of a row group, at most: headers of pages, and its part of the footer
MEGABYTE = 1_000_000
REPEATED = ["prompt", "finish_reason", "cleaned", *(name for name in SCHEMA.names if name not in COLUMNS)]


class ExportWrong(FinephraseError):
    """The exported rows are not those of the datasets; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A data file of a dataset that is released.

    Attributes:
        origin: the columns that its rows have in common, and `source_shard`.
        lineage: what the lineage file says of rows from this file.
        dropped: the ids of rows that are left out.
    """

    path: Path
    origin: Mapping[str, Any]
    lineage: Mapping[str, Any]
    dropped: IdSet = field(default_factory=IdSet)

    def batches(self, start: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """Yield the number of rows read so far and the rows among them that are released, from row `start` on."""
        row = 0
        for table in _rows([self.path]):
            row += len(table)
            if row > start:
                yield row, self._kept(table)

    def _kept(self, table: pa.Table) -> pa.Table:
        if not len(self.dropped):
            return table
        return table.filter(pa.array([id_hash(name) not in self.dropped for name in table["id"].to_pylist()]))

    def with_origin(self, table: pa.Table) -> pa.Table:
        """Return rows with the columns of their origin."""
        columns = [
            table[name] if name in COLUMNS else pa.repeat(pa.scalar(self.origin[name], type_), len(table))
            for name, type_ in zip(SCHEMA.names, SCHEMA.types, strict=True)
        ]
        return pa.table(columns, schema=SCHEMA)


class RowGroup(NamedTuple):
    """Rows that are written together: the table, the spans of rows by part, and the place after them."""

    table: pa.Table
    spans: list[tuple[int, int]]
    end: tuple[int, int]


def dataset_parts(lineage: Lineage, configuration: str) -> list[DataFile]:
    """Return the data files of a configuration's datasets, all of which are verified.

    Raises:
        ArtifactMissing, ArtifactDamaged: a dataset cannot be read.
    """
    parts = []
    for component in lineage.study.released[configuration]:
        dataset, corpus = lineage.component(component), lineage.source(component.source)
        check_artifact(dataset)
        shards, files = corpus.manifest()["files"], dataset.manifest()["files"]
        origin, dropped = origin_columns(lineage, component), dropped_rows(lineage, component)
        for file in files:
            number = place_of(chunk_of(file["path"]))[0]
            shard = shards[number] if 0 <= number < len(shards) else {"path": None, "sha256": None}
            lineage_of = {"dataset_file": file["path"], "dataset_file_sha256": file["sha256"], **origin}
            lineage_of |= {"source_shard": shard["path"], "source_shard_sha256": shard["sha256"]}
            own, path = {**origin, "source_shard": shard["path"]}, dataset.folder / file["path"]
            parts.append(DataFile(path=path, origin=own, lineage=lineage_of, dropped=dropped))
    return parts


def export(parts: Sequence[DataFile], folder: Path, *, most_bytes: int, log: Callable[[str], None]) -> Contents:
    """Write `part-00000.parquet` and so on; no file is larger than `most_bytes`, unless one row group is.

    Returns:
        The files, and as facts `rows`, the sums of tokens, `content` (see `ContentHash`) and `lineage`.

    Raises:
        ExportWrong: the files do not hold exactly the rows of the parts.
    """
    journal = folder / JOURNAL
    entries = _finished(folder, journal)
    for path in {*folder.glob("part-*.parquet")} - {folder / entry["path"] for entry in entries}:
        path.unlink()
    start = tuple(entries[-1]["end"]) if entries else (0, 0)
    if entries:
        log(f"resumes after {len(entries):,} files")
    groups: Iterator[RowGroup] = _row_groups(parts, start)
    first = next(groups, None)
    with journal.open("a", encoding="utf-8") as lines:
        while first is not None:
            path = folder / f"part-{len(entries):05d}.parquet"
            entry, first = _write_file(path, first, groups, most_bytes)
            lines.write(json.dumps(entry) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            entries.append(entry)
            log(f"{path.name}: {entry['rows']:,} rows, {entry['bytes']:,} bytes")
    return _checked(parts, folder, entries)


def _write_file(
    path: Path, group: RowGroup | None, groups: Iterator[RowGroup], most_bytes: int
) -> tuple[dict[str, Any], RowGroup | None]:
    """Write row groups until the file is full; return its entry in the journal, and the row group that did not fit."""
    spans: dict[int, int] = {}
    end, rows, overhead = (0, 0), 0, OVERHEAD_BYTES
    with atomic_write(path) as temporary, HashedFile(temporary) as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=REPEATED) as writer:
            while group is not None and (not rows or file.bytes + group.table.nbytes <= most_bytes - overhead):
                writer.write_table(group.table)
                rows, end, overhead = rows + len(group.table), group.end, overhead + OVERHEAD_BYTES
                for number, count in group.spans:
                    spans[number] = spans.get(number, 0) + count
                group = next(groups, None)
    listed = {"path": path.name, "rows": rows, "bytes": file.bytes, "sha256": file.digest.hexdigest()}
    return {**listed, "spans": sorted(spans.items()), "end": end}, group


def _row_groups(parts: Sequence[DataFile], start: Sequence[int]) -> Iterator[RowGroup]:
    """Yield the rows of all parts from a place on: a part, and a row in it."""
    tables: list[pa.Table] = []
    spans: list[tuple[int, int]] = []
    end, size = (0, 0), 0
    for number in range(start[0], len(parts)):
        for row, table in parts[number].batches(start[1] if number == start[0] else 0):
            end = (number, row)
            if len(table):
                tables.append(parts[number].with_origin(table))
                spans.append((number, len(table)))
                size += tables[-1].nbytes
            if size >= ROW_GROUP_BYTES:
                yield RowGroup(pa.concat_tables(tables), spans, end)
                tables, spans, size = [], [], 0
    if tables:
        yield RowGroup(pa.concat_tables(tables), spans, end)


def _finished(folder: Path, journal: Path) -> list[dict[str, Any]]:
    """Return the entries of the files that an earlier run finished; a torn last line does not count."""
    entries: list[dict[str, Any]] = []
    if journal.exists():
        complete = journal.read_bytes().rpartition(b"\n")[0]
        for line in complete.splitlines():
            entry = json.loads(line)
            path = folder / entry["path"]
            if not path.exists() or path.stat().st_size != entry["bytes"]:
                break
            entries.append(entry)
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return entries


def _checked(parts: Sequence[DataFile], folder: Path, entries: Sequence[Mapping[str, Any]]) -> Contents:
    """Compare the files with the datasets, row by row, and return what the export wrote."""
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(content_of, (table for part in parts for _, table in part.batches()))
        written = pool.submit(content_of, _rows(folder / entry["path"] for entry in entries)).result()
        expected = reading.result()
    if (written.rows, written.hexdigest()) != (expected.rows, expected.hexdigest()):
        raise ExportWrong(
            f"{folder}: holds {written.rows:,} rows that are not the {expected.rows:,} rows of the datasets. Delete "
            "the folder and run the command again."
        )
    files = [{name: entry[name] for name in ("path", "rows", "bytes", "sha256")} for entry in entries]
    lineage = [
        {"file": entry["path"], "sha256": entry["sha256"], "rows": count, **parts[number].lineage}
        for entry in entries
        for number, count in entry["spans"]
    ]
    path = folder / LINEAGE
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lineage), encoding="utf-8")
    sums = {name: getattr(written, name) for name in ("rows", "prompt_tokens", "completion_tokens")}
    facts = {**sums, "content": written.hexdigest(), "files": files}
    return Contents(files=[], facts=facts)


def _rows(files: Iterable[Path]) -> Iterator[pa.Table]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):  # asked for several, Arrow holds the bytes of all in memory
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[number], columns=list(COLUMNS)):
                    yield pa.Table.from_batches([batch])


def content_of(tables: Iterable[pa.Table]) -> ContentHash:
    """Return the hash of rows."""
    content = ContentHash()
    for table in tables:
        content.add(table)
    return content


def materialize_configuration(
    lineage: Lineage, configuration: str, log: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Return the manifest of a configuration, which is exported unless it exists."""
    artifact = release_artifact(lineage, configuration)

    def make(folder: Path) -> Contents:
        most = artifact.recipe["file_megabytes"] * MEGABYTE
        parts = dataset_parts(lineage, configuration)
        return export(parts, folder, most_bytes=most, log=lambda line: log(f"{artifact.name}: {line}"))

    return artifact.materialize(make)
