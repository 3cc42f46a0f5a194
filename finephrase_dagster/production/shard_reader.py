"""The rows that one worker reads: those of the shards whose leases it holds, one shard after the other.

A thread takes leases, renews them and reserves rows, so that nothing of that waits for a request, nor a request for it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from datatrove.data import Document

from finephrase_dagster.artifacts.folder import FolderUnusable
from finephrase_dagster.artifacts.lease import LeaseLost, RowShard, ShardLease
from finephrase_dagster.artifacts.leases import FEWEST_ROWS
from finephrase_dagster.production.shard_ledger import ShardLedger
from finephrase_dagster.rephrase.reader import InputRow, document_of, rows_of
from finephrase_dagster.rephrase.step import changed_input
from finephrase_dagster.rephrase.survey import Survey

RESERVED_BEATS = 1.5
"""For how many beats rows are reserved ahead, at the present rate."""
FIRST_PART = 32
"""The part of a shard that is reserved while the rate is not known yet."""
AWAY_SECONDS = 600.0
"""For how long leases may not be renewed before the worker gives up."""


@dataclass
class Work:
    """A shard, with its leases by prompt: all begin with the same row.

    Attributes:
        position: the next row to read.
    """

    leases: dict[str, ShardLease]
    shard: RowShard
    position: int

    @property
    def stop(self) -> int:
        return max((lease.shard.stop for lease in self.leases.values()), default=self.position)

    @property
    def readable(self) -> int:
        """The row before which all rows are reserved."""
        limits = [lease.reserved for lease in self.leases.values() if lease.reserved < lease.shard.stop]
        return min([self.stop, *limits])


class ShardReader:
    """A context manager that takes leases, and an iterator over their rows, which yields None while there are none."""

    def __init__(
        self, survey: Survey, ledgers: Mapping[str, ShardLedger], log: Callable[[str], None] = lambda line: None
    ) -> None:
        self._survey = survey
        self._ledgers = ledgers
        self._log = log
        timings = [ledger.leases.timing for ledger in ledgers.values()]
        self._beat = min(timing.beat for timing in timings)
        self._now: Work | None = None
        self._next: Work | None = None
        self._over = False
        self._failure: Exception | None = None
        self._changing = threading.RLock()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._tend, name="leases", daemon=True)
        self._read_at = (time.monotonic(), 0)
        self._rows_read = 0
        self._ahead = 0
        self._rows: Iterator[InputRow] = iter(())
        self._rows_next: tuple[int, int] | None = None

    def __enter__(self) -> ShardReader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join()
        with contextlib.ExitStack() as all_of_them:
            for ledger in self._ledgers.values():
                all_of_them.callback(ledger.give_back)

    def __iter__(self) -> Iterator[Document | None]:
        while not (self._over and self._now is None):
            if self._failure:
                raise self._failure
            yield self._draw()

    def _draw(self) -> Document | None:
        """Return the next row; None if there is none at present."""
        with self._changing:
            work = self._now
            if work is None or work.position >= work.stop:
                self._turn()
                work = self._now
            left = work.readable - work.position if work else 0
            if work is None or left <= self._ahead / 2 or work.stop - work.position == self._mark(work):
                self._wake.set()
            if work is None or left <= 0:
                return None
            row, work.position = work.position, work.position + 1
            self._rows_read += 1
            return self._row(work.shard.file, row)

    def _turn(self) -> None:
        """Read the next shard from now on."""
        if self._now:
            for prompt, lease in self._now.leases.items():
                self._ledgers[prompt].end(lease)
        self._now, self._next = self._next, None
        for prompt, ledger in self._ledgers.items():
            ledger.read(self._now.leases.get(prompt) if self._now else None)
        self._wake.set()

    def _row(self, file: int, row: int) -> Document:
        """Read a row; rows that follow each other are read from one open file."""
        if self._rows_next != (file, row):
            surveyed = self._survey.surveyed[file]
            columns, path = self._survey.columns, self._survey.files[file]
            self._rows = iter(rows_of(path, surveyed.rows, columns=columns, start=row, marks=surveyed.marks))
        self._rows_next = file, row + 1
        for content in self._rows:
            return document_of(file, row, content)
        raise changed_input(self._survey)

    def _tend(self) -> None:
        """Renew leases and take new ones, until there is nothing left or the reader is closed."""
        away_since, asked, pause, published = 0.0, 0.0, self._beat / 8, 0
        while not self._stop.is_set():
            try:
                self._renew()
                if (count := sum(ledger.published for ledger in self._ledgers.values())) > published:
                    asked, published = 0.0, count  # it may have been the last shard of all
                if self._wants_more() and time.monotonic() >= asked:
                    taken = self._take_next()
                    pause = self._beat / 8 if taken else min(2 * pause, self._beat)
                    asked = 0.0 if taken else time.monotonic() + pause
                away_since = 0.0
            except FolderUnusable as error:  # the ledgers hold the requests back meanwhile
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > AWAY_SECONDS:
                    self._failure = error
                    return
            except Exception as error:  # raised where rows are read
                self._failure = error
                return
            self._wake.wait(self._beat / 8)
            self._wake.clear()

    def _wants_more(self) -> bool:
        if self._next is not None or self._over:
            return False
        work = self._now
        return work is None or work.stop - work.position <= self._mark(work)

    def _mark(self, work: Work) -> int:
        """Return how many rows of a shard are left when the next one is taken."""
        return max(self._ahead, work.shard.rows // 4)

    def _renew(self) -> None:
        now = time.monotonic()
        since, rows = self._read_at
        if now - since >= self._beat:
            self._ahead = max(1, int((self._rows_read - rows) / (now - since) * self._beat * RESERVED_BEATS))
            self._read_at = now, self._rows_read
        for prompt, ledger in self._ledgers.items():
            for held in list(ledger.held.values()):
                lease = held.lease
                work = self._now  # which the reading thread may replace meanwhile
                is_read = work is not None and work.leases.get(prompt) is lease
                position = work.position if work and is_read else 0
                runs_out = (
                    is_read and lease.reserved < lease.shard.stop and lease.reserved - position <= self._ahead / 2
                )
                if not runs_out and now - lease.changed < self._beat:
                    continue
                try:
                    ahead = self._ahead or max(1, lease.shard.rows // FIRST_PART)
                    ledger.leases.extend(lease, position + ahead if is_read else lease.reserved)
                except LeaseLost as error:
                    self._log(str(error))
                    self._abandon(prompt, lease)

    def _abandon(self, prompt: str, lease: ShardLease) -> None:
        with self._changing:
            self._ledgers[prompt].abandon(lease)
            for work in (self._now, self._next):
                if work and work.leases.get(prompt) is lease:
                    del work.leases[prompt]

    def _take_next(self) -> bool:
        """Take a shard in one dataset, and the same in the others; return whether there was one."""
        work = self._now
        after = work.shard if work else None
        for first, ledger in self._ledgers.items():
            lease = ledger.leases.take(after, ahead=ledger.ahead, worth=max(FEWEST_ROWS, self._ahead))
            if lease is None:
                continue
            leases = {first: lease}
            for other, another in self._ledgers.items():
                if other != first and (same := another.leases.take_same(lease.shard, ahead=another.ahead)):
                    leases[other] = same
            try:
                for prompt, one in leases.items():
                    self._ledgers[prompt].begin(one)
            except FolderUnusable:  # they expire, and are taken again
                for prompt, one in leases.items():
                    self._ledgers[prompt].abandon(one)
                raise
            with self._changing:
                self._next = Work(leases, lease.shard, lease.shard.start)
            return True
        if not any(ledger.held for ledger in self._ledgers.values()):
            self._over = all(ledger.leases.are_finished(look=False) for ledger in self._ledgers.values())
        return False
