"""The ledger of one worker: the rows of a dataset in the shards whose leases it holds.

A shard has a journal for each worker that held its lease. When all its rows are in journals, the shard is published as
a chunk, which only one worker can do.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from finephrase_dagster.artifacts.folder import JOURNALS, Folder, Journal
from finephrase_dagster.artifacts.lease import LeaseLost, ShardLease
from finephrase_dagster.artifacts.leases import Leases
from finephrase_dagster.production.division import REUSED
from finephrase_dagster.rephrase.chunks import write_chunk_once
from finephrase_dagster.rephrase.dataset import LedgerError
from finephrase_dagster.rephrase.journals import Chunk, JournalWriter
from finephrase_dagster.rephrase.outcome import Outcome, Rollout, add_rollout, read_journal


@dataclass
class Held:
    """A shard whose lease this worker holds.

    Attributes:
        chunk: its rows and the worker's own journal.
        earlier: the journals of workers that held it before.
        done: the rows that these have.
        drawn: the rollouts that they have of rows that are not done, by id and number.
    """

    lease: ShardLease
    chunk: Chunk
    earlier: list[Journal]
    done: set[int]
    drawn: dict[str, dict[int, Rollout]] = field(default_factory=dict)

    @property
    def journals(self) -> list[Journal]:
        return [*self.earlier, self.chunk.journal]

    def close(self) -> None:
        """Close the journals; they stay with the shard."""
        for journal in self.journals:
            journal.close()


class ShardLedger(JournalWriter):
    """The ledger of one worker and one dataset.

    Attributes:
        held: the shards that are not published yet, by name.
    """

    def __init__(
        self, folder: Folder, prompt: str, leases: Leases, *, keep_raw: bool, has_rollouts: bool, layout: str
    ) -> None:
        """Describe the ledger; for the last arguments see `JournalWriter`."""
        super().__init__(folder, prompt, keep_raw=keep_raw, has_rollouts=has_rollouts, layout=layout)
        self.leases = leases
        self.held: dict[str, Held] = {}
        # A journal with completions of earlier datasets belongs to a whole shard, so such shards are not divided.
        has_reused = any(name.endswith(REUSED) for name in folder.journals())
        self.ahead = sys.maxsize if has_reused else 0
        self._abandoning = threading.Lock()
        self._reading: Held | None = None

    def begin(self, lease: ShardLease) -> None:
        """Begin with a shard, where earlier holders of its lease left off."""
        names = self.folder.names(f"{JOURNALS}/{lease.name}-*")
        earlier = sorted({name.removeprefix(f"{JOURNALS}/").partition(".")[0] for name in names})
        with self._writing():
            chunk = Chunk(lease.name, self.folder.journal(f"{lease.name}-{lease.version:06d}"))
            held = Held(lease, chunk, [self.folder.journal(name) for name in earlier], set())
        contents = [journal.read() for journal in held.earlier]
        for content in contents:
            held.done.update(place for place, _ in read_journal(content))
        for content in contents:
            for line in self._unfinished_rollouts(content, held.done):
                add_rollout(held.drawn, line)
        self._chunks.append(chunk)
        self.held[lease.name] = held

    def read(self, lease: ShardLease | None) -> None:
        """Read the next rows from this shard; None: from none of this dataset."""
        self._reading = self.held.get(lease.name) if lease else None

    def end(self, lease: ShardLease) -> None:
        """Record that all rows of a shard were read."""
        if held := self.held.get(lease.name):
            held.chunk.closed = True

    def abandon(self, lease: ShardLease) -> None:
        """Leave a shard to the worker that took its lease over."""
        with self._publishing:
            self._abandon(lease)

    def _abandon(self, lease: ShardLease) -> None:
        if held := self.held.pop(lease.name, None):
            with self._abandoning:
                self._chunks.remove(held.chunk)
            held.close()
            if self._reading is held:
                self._reading = None

    def is_done(self, shard: int, row: int, name: str) -> bool:
        held = self._reading
        return held is None or row >= held.lease.shard.stop or row in held.done

    def assign(self, shard: int) -> Chunk:
        assert self._reading is not None
        self._reading.chunk.assigned += 1
        return self._reading.chunk

    def close(self, shard: int) -> None:
        """Do nothing: a shard ends with its last row."""

    def drawn(self, name: str) -> Mapping[int, Rollout]:
        return self._reading.drawn.get(name, {}) if self._reading else {}

    def record(self, chunk: Chunk, row: int, outcome: Outcome) -> None:
        with self._abandoning:
            if chunk in self._chunks:
                super().record(chunk, row, outcome)

    def record_rollout(self, chunk: Chunk, row: int, number: int, rollout: Rollout) -> None:
        with self._abandoning:
            if chunk in self._chunks:
                super().record_rollout(chunk, row, number, rollout)

    def publish_left_over(self) -> None:
        """Do nothing: what a killed worker left is published by the next holder of its lease."""

    def publish_full(self) -> None:
        with self._publishing, self._writing():
            for held in [held for held in list(self.held.values()) if held.chunk.is_full]:
                try:
                    self._publish(held)
                except LeaseLost:
                    self._abandon(held.lease)

    def give_back(self) -> None:
        """Close the journals, and let others take over the shards that are not published."""
        self.sync()
        for held in self.held.values():
            held.close()
            self.leases.give_back(held.lease)

    def _publish(self, held: Held) -> None:
        lease, journals = held.lease, held.journals
        self.leases.confirm(lease)
        for journal in journals:
            journal.sync()
        finished = self._finished([journal.read() for journal in journals])
        stretches = [*finished.part["completed"], *finished.part["others"]]
        if (rows := sum(stop - start for start, stop in stretches)) != lease.shard.rows:
            raise LedgerError(
                f"{self.folder}: the journals of {lease.name} have {rows} rows instead of {lease.shard.rows}. Delete "
                f"{JOURNALS}/{lease.name}-* and run the command again to redo them."
            )
        write_chunk_once(self.folder, lease.name, finished, f"{lease.version:06d}")
        self.leases.finish(lease)
        self.published += 1
        self._chunks.remove(held.chunk)
        del self.held[lease.name]
        for journal in journals:
            journal.remove()
