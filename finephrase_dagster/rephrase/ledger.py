"""The ledger of one dataset: records each row's outcome durably, and publishes finished chunks as files.

An outcome is written to its chunk's journal before another request takes its place in the window. When all rows of
a chunk are done, the chunk is published: first its completions (`part-*.parquet`), then its summary
(`__meta__/chunks/part-*.parquet`: the rejected rows and, in the footer, the counts of the data file), then its
journal is removed. So the files tell what is done, whatever killed the writer. Rows are known by their ids: their
order, their division into input files and the chunk size may change between runs.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finephrase_dagster.artifacts.folder import Folder, Journal
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.rephrase.dataset import (
    CHUNKS,
    Dataset,
    LedgerError,
    RowCounts,
    json_bytes,
    parquet,
    read_parquet,
    sha256_bytes,
    write_manifest,
)
from finephrase_dagster.rephrase.outcome import Completed, Outcome, Rejected, journal_line, read_journal

FOOTER = b"finephrase"

COMPLETED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("document_cut", pa.bool_()),
        ("document_sha256", pa.string()),
        ("cleaned", pa.string()),
    ]
)
RAW = pa.field("raw", pa.string())
REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("status", pa.string()), ("reason", pa.string())])


@dataclass
class Chunk:
    """The rows of one output file: how many were assigned to it, and how many of them are recorded."""

    name: str
    journal: Journal
    assigned: int = 0
    recorded: int = 0
    closed: bool = False

    @property
    def is_full(self) -> bool:
        return self.closed and self.recorded == self.assigned


class Ledger:
    """The rows of one dataset, in a folder that the caller has claimed."""

    def __init__(self, folder: Folder, prompt: str, *, chunk_rows: int, keep_raw: bool = False) -> None:
        self.folder = folder
        self.prompt = prompt
        self._chunk_rows = chunk_rows
        self._schema = COMPLETED_SCHEMA.append(RAW) if keep_raw else COMPLETED_SCHEMA
        self._open: dict[int, Chunk] = {}
        self._chunks: list[Chunk] = []
        self._publishing = threading.Lock()
        self._left_over = self._unpublished_journals()
        self._summarize_orphans()
        self._next = _next_numbers([*self._left_over, *map(_stem, folder.names(f"{CHUNKS}/*.parquet"))])
        self.published = 0  # chunks
        self.example: str | None = None  # the id of a completed row
        self._done = IdSet(id_hash(name) for name in self._done_ids())

    @property
    def done_before(self) -> int:
        """How many rows earlier runs finished."""
        return len(self._done)

    def is_done(self, name: str) -> bool:
        """Return whether an earlier run finished the row with this id."""
        return bool(len(self._done)) and id_hash(name) in self._done

    def assign(self, shard: int) -> tuple[Chunk, int]:
        """Return the chunk for the next row of a shard, and the row's position in it."""
        chunk = self._open.get(shard)
        if chunk is None:
            name = f"part-{shard:05d}-{self._next[shard]:05d}"
            self._next[shard] += 1
            with self._writing():
                chunk = self._open[shard] = Chunk(name, self.folder.journal(name))
            self._chunks.append(chunk)
        chunk.assigned += 1
        if chunk.assigned == self._chunk_rows:
            self.close(shard)
        return chunk, chunk.assigned

    def close(self, shard: int) -> None:
        """Close a shard's current chunk: no more rows are assigned to it."""
        chunk = self._open.pop(shard, None)
        if chunk is not None:
            chunk.closed = True

    def record(self, chunk: Chunk, position: int, outcome: Outcome) -> None:
        """Record the outcome of a row. From here on the row is not sent again."""
        with self._writing():
            chunk.journal.append(journal_line(position, outcome))
        chunk.recorded += 1

    def publish_full(self) -> None:
        """Publish the chunks whose rows are all done."""
        with self._publishing, self._writing():
            for chunk in [chunk for chunk in self._chunks if chunk.is_full]:
                self._publish(chunk.name, chunk.journal)
                self._chunks.remove(chunk)

    def publish_left_over(self) -> None:
        """Publish the journals that an interrupted run left, full or not."""
        with self._publishing, self._writing():
            while self._left_over:
                name = self._left_over[0]
                self._publish(name, self.folder.journal(name))
                self._left_over.pop(0)

    def sync(self) -> None:
        """Sync the journals, so that recorded outcomes survive a power failure, too."""
        with self._writing():
            for chunk in list(self._chunks):
                chunk.journal.sync()

    def release(self) -> None:
        """Close the journals of unfinished chunks. Their rows are kept."""
        for chunk in self._chunks:
            chunk.journal.close()

    def count_rows(self, rows_in: int) -> RowCounts:
        """Count the rows of all published chunks.

        Raises:
            LedgerError: completed, skipped and failed rows do not add up to the input rows, or a file is missing.
        """
        counts = RowCounts(rows_in=rows_in)
        parts = set(self.folder.names("part-*.parquet"))
        for name in self.folder.names(f"{CHUNKS}/*.parquet"):
            rejected, part = self._read_summary(name)
            if part["rows"]:
                if part["path"] not in parts:
                    raise self._missing(part["path"])
                counts.files.append({key: part[key] for key in ("path", "rows", "sha256")})
            counts.completed += part["rows"]
            counts.prompt_tokens += part["prompt_tokens"]
            counts.completion_tokens += part["completion_tokens"]
            counts.documents_cut += part["documents_cut"]
            counts.cleaned.update(part["cleaned"])
            for row in rejected.to_pylist():
                counts.rejected[row["status"], row["reason"]] += 1
        if rows_in != counts.completed + counts.skipped + counts.failed:
            raise LedgerError(
                f"{self.folder}: the input has {rows_in} rows, but {counts.completed} are completed, {counts.skipped} "
                f"skipped and {counts.failed} failed. Delete this folder and run the command again."
            )
        return counts

    def complete(self, dataset: Dataset, counts: RowCounts, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write `rejected.parquet` and then the manifest: from here on the dataset is complete."""
        names = self.folder.names(f"{CHUNKS}/*.parquet")
        rejected = [self._read_summary(name)[0] for name in names]
        with self._writing():
            manifest = write_manifest(
                dataset, counts, pa.concat_tables([REJECTED_SCHEMA.empty_table(), *rejected]), facts
            )
            for name in names:  # needed only until there is a manifest
                self.folder.remove(name)
        return manifest

    def forget_rejected(self) -> None:
        """Delete the records of a dataset without completions, so that the next run sends its rows again."""
        with self._writing():
            for name in self.folder.names(f"{CHUNKS}/*.parquet"):
                self.folder.remove(name)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise LedgerError(
                f"{self.folder}: {error.filename} was deleted during the run. Run the command again."
            ) from error
        except OSError as error:
            raise LedgerError(
                f"{self.folder}: cannot be written ({error.strerror or error}). Finished rows are kept: make room or "
                "correct the folder, then run the command again."
            ) from error

    def _publish(self, name: str, journal: Journal) -> None:
        rows = dict(sorted(read_journal(journal.read())))
        completed = [row for row in rows.values() if isinstance(row, Completed)]
        part: dict[str, Any] = {
            "path": f"{name}.parquet",
            "rows": len(completed),
            "prompt_tokens": sum(row.prompt_tokens for row in completed),
            "completion_tokens": sum(row.completion_tokens for row in completed),
            "documents_cut": sum(row.document_cut for row in completed),
            "cleaned": _count_rules(row.cleaned for row in completed),
        }
        if completed:
            content = parquet(self._table(completed))
            part["sha256"] = sha256_bytes(content)
            self.folder.write(part["path"], content)
        self._write_summary(name, [row for row in rows.values() if isinstance(row, Rejected)], part)
        self.published += 1
        journal.remove()

    def _write_summary(self, name: str, rejected: list[Rejected], part: Mapping[str, Any]) -> None:
        columns = [[getattr(row, name) for row in rejected] for name in REJECTED_SCHEMA.names]
        schema = REJECTED_SCHEMA.with_metadata({FOOTER: json_bytes(part)})
        self.folder.write(f"{CHUNKS}/{name}.parquet", parquet(pa.table(columns, schema=schema)))

    def _table(self, rows: list[Completed]) -> pa.Table:
        columns: list[Any] = []
        for field_ in self._schema:
            values = (
                [self.prompt] * len(rows) if field_.name == "prompt" else [getattr(row, field_.name) for row in rows]
            )
            columns.append(pa.array(values, field_.type))
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _unpublished_journals(self) -> list[str]:
        """Return the journals without a summary, and delete the others.

        A writer that was killed between the two leaves both. The summary counts: in an object store the journal may
        lack the rows since its last upload, which are in the published file.
        """
        summaries = {_stem(name) for name in self.folder.names(f"{CHUNKS}/*.parquet")}
        journals = self.folder.journals()
        with self._writing():
            for name in summaries.intersection(journals):
                self.folder.journal(name).remove()
        return [name for name in journals if name not in summaries]

    def _summarize_orphans(self) -> None:
        """Write summaries for data files without summary and journal: somebody deleted it, or the manifest."""
        summaries = {_stem(name) for name in self.folder.names(f"{CHUNKS}/*.parquet")}
        for path in self.folder.names("part-*.parquet"):
            if _stem(path) not in summaries and _stem(path) not in self._left_over:
                content = self.folder.read(path)
                table = self._read_part(
                    path, content, ["prompt_tokens", "completion_tokens", "document_cut", "cleaned"]
                )
                part = {"path": path, "rows": table.num_rows, "sha256": sha256_bytes(content)}
                part |= {name: pc.sum(table[name]).as_py() or 0 for name in ("prompt_tokens", "completion_tokens")}
                part["documents_cut"] = pc.sum(table["document_cut"]).as_py() or 0
                part["cleaned"] = _count_rules(table["cleaned"].to_pylist())
                with self._writing():
                    self._write_summary(_stem(path), [], part)

    def _done_ids(self) -> Iterator[str]:
        """Yield the ids of all rows in files and journals."""
        for name in self.folder.names(f"{CHUNKS}/*.parquet"):
            rejected, part = self._read_summary(name)
            yield from rejected["id"].to_pylist()
            if part["rows"]:
                ids = self._part_ids(part)
                self.example = ids[0]
                yield from ids
        for name in self._left_over:
            journal = self.folder.journal(name)
            for _, outcome in read_journal(journal.read()):
                if isinstance(outcome, Completed):
                    self.example = outcome.id
                yield outcome.id
            journal.close()

    def _part_ids(self, part: Mapping[str, Any]) -> list[str]:
        path = part["path"]
        try:
            content = self.folder.read(path)
        except FileNotFoundError as error:
            raise self._missing(path) from error
        if sha256_bytes(content) != part["sha256"]:
            raise self._damaged(path, "its content has changed")
        return self._read_part(path, content, ["id"])["id"].to_pylist()

    def _read_part(self, path: str, content: bytes, columns: list[str]) -> pa.Table:
        try:
            return read_parquet(content, columns)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(path, str(error)) from error

    def _missing(self, path: str) -> LedgerError:
        return LedgerError(
            f"{self.folder}: {path} is missing. Delete {CHUNKS}/{path} and run the command again to redo its rows."
        )

    def _damaged(self, path: str, flaw: str) -> LedgerError:
        return LedgerError(
            f"{self.folder}: {path} is damaged ({flaw}). Delete it and {CHUNKS}/{path}, and run the command again to "
            "redo its rows."
        )

    def _read_summary(self, name: str) -> tuple[pa.Table, dict[str, Any]]:
        try:
            rejected = read_parquet(self.folder.read(name))
            return rejected.replace_schema_metadata(None), json.loads(rejected.schema.metadata[FOOTER])
        except (OSError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
            raise LedgerError(
                f"{self.folder}: {name} is damaged ({error}). Delete it and {_stem(name)}.parquet, and run the command "
                "again to redo their rows."
            ) from error


def _count_rules(cleaned: Iterable[str]) -> dict[str, int]:
    """Return how often each cleaning rule removed something."""
    return Counter(rule for rules in cleaned if rules for rule in rules.split(","))


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")


def _next_numbers(chunks: Iterable[str]) -> Counter[int]:
    """Return, by shard, the number of its next chunk."""
    numbers: Counter[int] = Counter()
    for name in chunks:
        if match := re.fullmatch(r"part-(\d+)-(\d+)", name):
            shard = int(match[1])
            numbers[shard] = max(numbers[shard], int(match[2]) + 1)
    return numbers
