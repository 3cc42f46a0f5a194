"""The journals of a dataset that is being written: each row's outcome is durable before another request is sent."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from finephrase_dagster.artifacts.folder import Folder, Journal
from finephrase_dagster.rephrase.dataset import LedgerError
from finephrase_dagster.rephrase.done import stretches_of
from finephrase_dagster.rephrase.outcome import (
    Completed,
    Outcome,
    Rejected,
    Rollout,
    count_reused,
    count_rules,
    is_reused,
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


class Finished(NamedTuple):
    """The rows of a chunk: a table of the completions, the rejected rows, and the counts for its summary."""

    table: pa.Table | None
    rejected: list[Rejected]
    part: dict[str, Any]


class JournalWriter(ABC):
    """Writes the journals of chunks. Subclasses say which rows a chunk has, and what becomes of it when it is full.

    Attributes:
        published: how many chunks became files.
        example: the id of a row that an earlier run completed.
        done_before, tokens_before: rows that earlier runs finished, and their completion tokens.
    """

    example: str | None = None
    done_before = 0
    tokens_before = 0

    def __init__(self, folder: Folder, prompt: str, *, keep_raw: bool, has_rollouts: bool, layout: str) -> None:
        """Describe the rows.

        Args:
            keep_raw: whether rows also hold the completion before cleaning.
            has_rollouts: whether rows may be drawn several times; each then holds how often it was.
            layout: the hash of the input rows in order (`Survey.layout`); "": rows are known by their ids alone.
        """
        self.folder = folder
        self.prompt = prompt
        self.published = 0
        self._has_rollouts = has_rollouts
        added = [*([RAW] if keep_raw else []), *([ROLLOUTS] if has_rollouts else [])]
        self._schema = pa.schema([*COMPLETED_SCHEMA, *added])
        self._layout = layout
        self._chunks: list[Chunk] = []
        self._publishing = threading.Lock()

    @abstractmethod
    def is_done(self, shard: int, row: int, name: str) -> bool:
        """Return whether a row, given its place in the input and its id, is not to be sent."""

    @abstractmethod
    def assign(self, shard: int) -> Chunk:
        """Return the chunk for the row of an input file that was asked for last."""

    @abstractmethod
    def close(self, shard: int) -> None:
        """Close an input file's current chunk: no more rows are assigned to it."""

    @abstractmethod
    def drawn(self, name: str) -> Mapping[int, Rollout]:
        """Return the rollouts that earlier runs drew for a row that is not done, by number."""

    @abstractmethod
    def publish_left_over(self) -> None:
        """Publish the journals that an interrupted run left, full or not."""

    @abstractmethod
    def publish_full(self) -> None:
        """Publish the chunks whose rows are all done."""

    def record(self, chunk: Chunk, row: int, outcome: Outcome) -> None:
        """Record the outcome of a row of the chunk's input file. From here on the row is not sent again."""
        self._append(chunk, journal_line(row, outcome))
        chunk.recorded += 1

    def record_rollout(self, chunk: Chunk, row: int, number: int, rollout: Rollout) -> None:
        """Record a rollout of a row that is drawn again. This rollout is not sent again."""
        self._append(chunk, rollout_line(row, number, rollout))

    def sync(self) -> None:
        """Sync the journals, so that recorded outcomes survive a power failure, too."""
        with self._writing():
            for chunk in list(self._chunks):
                chunk.journal.sync()

    def release(self) -> None:
        """Close the journals of unfinished chunks. Their rows are kept."""
        for chunk in self._chunks:
            chunk.journal.close()

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

    def _finished(self, contents: Sequence[bytes]) -> Finished:
        """Return the rows in a chunk's journals; of a row that is in several of them, the first outcome."""
        found: dict[int, Outcome] = {}
        for content in contents:
            for place, row in read_journal(content):
                found.setdefault(place, row)
        rows = dict(sorted(found.items()))
        completed = {place: row for place, row in rows.items() if isinstance(row, Completed)}
        rejected = {place: row for place, row in rows.items() if isinstance(row, Rejected)}
        causes = Counter((row.status, row.reason) for row in rejected.values())
        layouts = set(map(read_layout, filter(None, contents)))
        part = {
            "rows": len(completed),
            "prompt_tokens": sum(row.prompt_tokens for row in completed.values()),
            "completion_tokens": sum(row.completion_tokens for row in completed.values()),
            "documents_cut": sum(row.document_cut for row in completed.values()),
            "cleaned": count_rules(row.cleaned for row in completed.values()),
            "layout": layouts.pop() if len(layouts) == 1 else "",
            "completed": stretches_of(completed),
            "others": stretches_of(rejected),
            "rejected": [[status, reason, count] for (status, reason), count in causes.items()],
            "example": next(([place, row.id] for place, row in completed.items()), None),
            "discarded": total_discarded(row.discarded for row in rows.values() if not is_reused(row)),
            "reused": count_reused(completed.values()),
            "rollouts": [line for content in contents for line in self._unfinished_rollouts(content, rows)],
        }
        table = self._table(list(completed.values())) if completed else None
        return Finished(table, list(rejected.values()), part)

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
