"""One lease: the rows of a shard, the versions of its state, and the lease that a worker holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from finephrase_dagster.artifacts.folder import Folder, LocalFolder
from finephrase_dagster.artifacts.processes import is_running, this_machine
from finephrase_dagster.errors import FinephraseError


class LeaseLost(FinephraseError, retryable=True):
    """Another worker has taken over a lease, because it did not change for long."""


class Timing(NamedTuple):
    """Seconds between two versions of a lease, and after how many without a new one its holder is taken to be dead."""

    beat: float
    expiry: float

    @classmethod
    def of(cls, folder: Folder) -> Timing:
        """Return what suits a folder: in an object store, each request costs money."""
        return cls(2.0, 60.0) if isinstance(folder, LocalFolder) else cls(60.0, 180.0)


class RowShard(NamedTuple):
    """The rows `start` to `stop - 1` of an input file; `division` counts how often rows were divided before.

    So a shard never has the name of one that an earlier division left unfinished, and whose rows became a file.
    """

    file: int
    start: int
    stop: int
    division: int = 0

    @property
    def name(self) -> str:
        return f"part-{self.file:05d}-r{self.division:03d}{self.start:09d}"

    @property
    def rows(self) -> int:
        return self.stop - self.start


def shard_division(name: str) -> int:
    """Return the division that the name of a chunk is from; -1 if the chunk is no shard."""
    match = re.fullmatch(r"part-\d+-r(\d{3})\d+", name)
    return int(match[1]) if match else -1


@dataclass(frozen=True, kw_only=True)
class LeaseState:
    """One version of a lease.

    Attributes:
        file, start, stop, division: the shard; `stop` falls when another worker cuts off its end.
        reserved: rows before this one are the holder's.
        worker: the holder; "" after it gave the lease back.
        machine, process: where it runs.
        beats: how often the holder has changed the lease, which another worker's cut does not count.
    """

    file: int
    start: int
    stop: int
    division: int
    reserved: int
    worker: str
    machine: str
    process: str
    beats: int = 0

    @property
    def is_abandoned(self) -> bool:
        """Whether it was given back, or its holder was a process of this machine that has ended."""
        return not self.worker or (self.machine == this_machine() and not is_running(self.process))

    @property
    def unreserved(self) -> int:
        return self.stop - self.reserved


@dataclass
class ShardLease:
    """A lease that this process holds."""

    shard: RowShard
    version: int
    reserved: int
    changed: float
    beats: int = 0
    earlier: list[tuple[float, int]] = field(default_factory=list)
    """Older versions, each with the time since when it is not the newest."""
    is_finished: bool = False

    @property
    def name(self) -> str:
        return self.shard.name
