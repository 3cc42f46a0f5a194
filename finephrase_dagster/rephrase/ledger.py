"""The ledger of one dataset: records each row's outcome durably, and publishes finished chunks as files.

An outcome is written to its chunk's journal before another request takes its place in the window. When all rows of
a chunk are done, the chunk is published: first its completions (`part-*.parquet`), then its summary
(`__meta__/chunks/part-*.parquet`: the rejected rows and, in the footer, the counts of the data file), then its
journal is removed. So the files tell what is done, whatever killed the writer. A row is known by its place in the
input; where the order of the input's rows has changed between runs, by its id.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from finephrase_dagster.artifacts.folder import Folder, Journal
from finephrase_dagster.artifacts.verification import remember_verified
from finephrase_dagster.rephrase.chunks import PublishedChunks, place_of
from finephrase_dagster.rephrase.dataset import REJECTED, Dataset, LedgerError, RowCounts, write_manifest
from finephrase_dagster.rephrase.done import DoneRows, stretches_of
from finephrase_dagster.rephrase.outcome import (
    Completed,
    Outcome,
    Rejected,
    Rollout,
    add_rollout,
    count_rules,
    journal_header,
    journal_line,
    read_journal,
    read_layout,
    read_rollouts,
    rollout_line,
    total_discarded,
)

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
ROLLOUTS = pa.field("rollouts", pa.int64())


@dataclass
class Chunk:
    """The rows of one output file: how many were assigned to it, and how many of them are recorded."""

    name: str
    journal: Journal
    assigned: int = 0
    recorded: int = 0
    closed: bool = False
    begun: bool = False

    @property
    def is_full(self) -> bool:
        return self.closed and self.recorded == self.assigned


class Ledger:
    """The rows of one dataset, in a folder that the caller has claimed."""

    def __init__(
        self,
        folder: Folder,
        prompt: str,
        *,
        chunk_rows: int,
        keep_raw: bool = False,
        has_rollouts: bool = False,
        layout: str = "",
    ) -> None:
        """Read what earlier runs finished.

        Args:
            folder: claimed by the caller.
            prompt: the prompt's name.
            chunk_rows: input rows per output file.
            keep_raw: whether rows also hold the completion before cleaning.
            has_rollouts: whether rows may be drawn several times; each then holds how often it was.
            layout: the hash of the input rows in order (`Survey.layout`); "": rows are known by their ids alone.
        """
        self.folder = folder
        self.prompt = prompt
        self._chunk_rows = chunk_rows
        self._has_rollouts = has_rollouts
        added = [*([RAW] if keep_raw else []), *([ROLLOUTS] if has_rollouts else [])]
        self._schema = pa.schema([*COMPLETED_SCHEMA, *added])
        self._layout = layout
        self._open: dict[int, Chunk] = {}
        self._chunks: list[Chunk] = []
        self._publishing = threading.Lock()
        self._published = PublishedChunks(folder)
        self._left_over = self._unpublished_journals()
        with self._writing():
            self._published.adopt(self._left_over)
        self._published.check_files()
        self._next = _next_numbers([*self._left_over, *self._published.parts])
        self.published = 0  # chunks
        self.example: str | None = None  # the id of a completed row
        self._example_place: tuple[int, int] | None = None
        self.tokens_before = 0  # completion tokens of the rows that earlier runs finished
        self._done = DoneRows()
        self._drawn: dict[str, dict[int, Rollout]] = {}
        self._read_done()

    @property
    def done_before(self) -> int:
        """How many rows earlier runs finished."""
        return self._done.count

    def is_done(self, shard: int, row: int, name: str) -> bool:
        """Return whether an earlier run finished a row, given its place in the input and its id."""
        return bool(self._done.count) and self._done.has(shard, row, name)

    def next_needed(self, shard: int, row: int) -> int:
        """Return the first row of an input file, from a given one on, that may not be done, or is the example."""
        needed = self._done.next_missing(shard, row)
        if self._example_place and self._example_place[0] == shard and row <= self._example_place[1]:
            return min(needed, self._example_place[1])
        return needed

    def drawn(self, name: str) -> Mapping[int, Rollout]:
        """Return the rollouts that earlier runs drew for a row that is not done, by number."""
        return self._drawn.get(name, {})

    def assign(self, shard: int) -> Chunk:
        """Return the chunk for the next row of an input file."""
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
        return chunk

    def close(self, shard: int) -> None:
        """Close a shard's current chunk: no more rows are assigned to it."""
        chunk = self._open.pop(shard, None)
        if chunk is not None:
            chunk.closed = True

    def record(self, chunk: Chunk, row: int, outcome: Outcome) -> None:
        """Record the outcome of a row of the chunk's input file. From here on the row is not sent again."""
        self._append(chunk, journal_line(row, outcome))
        chunk.recorded += 1

    def record_rollout(self, chunk: Chunk, row: int, number: int, rollout: Rollout) -> None:
        """Record a rollout of a row that is drawn again. This rollout is not sent again."""
        self._append(chunk, rollout_line(row, number, rollout))

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
        self._published.check_files()
        for part in self._published.parts.values():
            if part["rows"]:
                counts.files.append({key: part[key] for key in ("path", "rows", "sha256")})
            counts.completed += part["rows"]
            counts.prompt_tokens += part["prompt_tokens"]
            counts.completion_tokens += part["completion_tokens"]
            counts.documents_cut += part["documents_cut"]
            counts.cleaned.update(part["cleaned"])
            counts.discarded = total_discarded([counts.discarded, part["discarded"]])
            for status, reason, count in part["rejected"]:
                counts.rejected[status, reason] += count
        counts.files.sort(key=lambda file: file["path"])
        if rows_in != counts.completed + counts.skipped + counts.failed:
            raise LedgerError(
                f"{self.folder}: the input has {rows_in} rows, but {counts.completed} are completed, {counts.skipped} "
                f"skipped and {counts.failed} failed. Delete this folder and run the command again."
            )
        return counts

    def complete(self, dataset: Dataset, counts: RowCounts, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write `rejected.parquet` and then the manifest: from here on the dataset is complete."""
        published = self._published
        verified = {part["path"]: [*part["stamp"], part["sha256"]] for part in published.parts.values() if part["rows"]}
        with self._writing():
            published.keep()
            manifest = write_manifest(dataset, counts, map(published.rejected, sorted(published.parts)), facts)
            stamp = self.folder.stamps([REJECTED])[REJECTED]
            remember_verified(self.folder, {**verified, REJECTED: [*stamp, manifest["meta_files"][0]["sha256"]]})
            published.remove()  # needed only until there is a manifest
        return manifest

    def forget_rejected(self) -> None:
        """Delete the records of a dataset without completions, so that the next run sends its rows again."""
        with self._writing():
            self._published.remove()

    def _append(self, chunk: Chunk, line: bytes) -> None:
        with self._writing():
            chunk.journal.append(line if chunk.begun else journal_header(self._layout) + line)
        chunk.begun = True

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
        if name in self._published.parts:  # an earlier attempt ended before it had removed the journal
            journal.remove()
            return
        content = journal.read()
        rows = dict(sorted(read_journal(content)))
        completed = {place: row for place, row in rows.items() if isinstance(row, Completed)}
        rejected = {place: row for place, row in rows.items() if isinstance(row, Rejected)}
        causes = Counter((row.status, row.reason) for row in rejected.values())
        part = {
            "rows": len(completed),
            "prompt_tokens": sum(row.prompt_tokens for row in completed.values()),
            "completion_tokens": sum(row.completion_tokens for row in completed.values()),
            "documents_cut": sum(row.document_cut for row in completed.values()),
            "cleaned": count_rules(row.cleaned for row in completed.values()),
            "layout": read_layout(content),
            "completed": stretches_of(completed),
            "others": stretches_of(rejected),
            "rejected": [[status, reason, count] for (status, reason), count in causes.items()],
            "example": next(([place, row.id] for place, row in completed.items()), None),
            "discarded": total_discarded(row.discarded for row in rows.values()),
            "rollouts": self._unfinished_rollouts(content, rows),
        }
        journal.sync()  # so that the journal has all rows of a data file whose summary is not written
        table = self._table(list(completed.values())) if completed else None
        self._published.publish(name, table, list(rejected.values()), part)
        self.published += 1
        journal.remove()

    def _unfinished_rollouts(self, journal: bytes, rows: Collection[int]) -> list[list[Any]]:
        """Return the rollouts in a journal of rows that are not done."""
        return [line for line in read_rollouts(journal) if line[0] not in rows] if self._has_rollouts else []

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

        A writer that was killed while it removed a journal leaves both. The summary counts: in an object store, parts
        of the journal may be gone.
        """
        journals = self.folder.journals()
        with self._writing():
            for name in journals:
                if name in self._published.parts:
                    self.folder.journal(name).remove()
        return [name for name in journals if name not in self._published.parts]

    def _read_done(self) -> None:
        """Read which rows are in files and journals."""
        for name, part in self._published.parts.items():
            shard, _ = place_of(name)
            self.tokens_before += part["completion_tokens"]
            for line in part["rollouts"]:
                add_rollout(self._drawn, line)
            if self._layout and part["layout"] == self._layout:
                self._done.add(shard, [*part["completed"], *part["others"]])
                if part["rows"] and self._example_place is None:
                    self._example_place, self.example = (shard, part["example"][0]), part["example"][1]
            else:
                names = list(self._published.ids(name))
                if part["rows"] and self.example is None:
                    self.example = names[0]
                self._done.add_ids(names)
        for name in self._left_over:
            journal = self.folder.journal(name)
            content = journal.read()
            journal.close()
            rows = dict(read_journal(content))
            for line in self._unfinished_rollouts(content, rows):
                add_rollout(self._drawn, line)
            if self._layout and read_layout(content) == self._layout:
                self._done.add(place_of(name)[0], stretches_of(rows))
            else:
                self._done.add_ids(row.id for row in rows.values())
            completed = [(place, row) for place, row in rows.items() if isinstance(row, Completed)]
            self.tokens_before += sum(row.completion_tokens for _, row in completed)
            if self.example is None and completed:
                self._example_place, self.example = (place_of(name)[0], completed[0][0]), completed[0][1].id


def _next_numbers(chunks: Iterable[str]) -> Counter[int]:
    """Return, by input file, the number of its next chunk."""
    numbers: Counter[int] = Counter()
    for name in chunks:
        shard, number = place_of(name)
        numbers[shard] = max(numbers[shard], number + 1)
    return numbers
