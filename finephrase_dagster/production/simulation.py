"""A simulation of workers that share a dataset by leases: goodput before a run, for 10 to 1,000 GPUs.

Leases are the real ones (`artifacts.leases`), on a store in memory and a clock of the simulation. A worker completes
documents at its own steady rate. It starts slowly, may be slower than others, and dies from time to time; what it had
in flight, and what it had not uploaded of its journals, is then done again by others.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.lease import LeaseLost, RowShard, ShardLease, Timing
from finephrase_dagster.artifacts.leases import Leases
from finephrase_dagster.production.shard_reader import RESERVED_BEATS

IN_A_STORE = Timing(60.0, 180.0)
PAGE = 1_000
"""Names that an object store returns per request."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The machines, and how they fail.

    Attributes:
        workers: engines, one per worker.
        rate: documents per second of one engine.
        spread: standard deviation of the logarithm of the workers' rates; 0: all are equally fast.
        in_flight: documents in flight per engine.
        start_seconds: until an engine answers.
        hours_between_failures: mean time until a worker dies, for each; infinite: never.
        warned: share of the deaths that are announced (an eviction sends SIGTERM): leases are given back.
        away_seconds: until the place of a dead worker is taken by a new one.
        deaths: moments at which the oldest worker dies, besides.
        upload_seconds: time between two uploads of journals; what was answered since is lost with the worker.
    """

    workers: int
    rate: float
    spread: float = 0.0
    in_flight: int = 256
    start_seconds: float = 120.0
    hours_between_failures: float = math.inf
    warned: float = 0.0
    away_seconds: float = 300.0
    deaths: tuple[float, ...] = ()
    upload_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True)
class FleetOutcome:
    """What became of a simulated run.

    Attributes:
        seconds: from its begin until the last shard was finished.
        goodput: time that the engines needed for the documents, as a share of the time that they were held.
        repeated: documents that were sent more than once.
        deaths: of workers.
        shards: that were published, with those that were cut off.
        requests: to the store, for leases.
        requests_per_shard_minute: for one worker that works on one shard.
    """

    seconds: float
    goodput: float
    repeated: int
    deaths: int
    shards: int
    requests: int
    requests_per_shard_minute: float


@dataclass
class MemoryFolder:
    """What leases need of a folder, in memory; it counts the requests that an object store would get."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: int = 0

    def create(self, name: str, content: bytes) -> bool:
        self.requests += 1
        return self.files.setdefault(name, content) == content

    def read(self, name: str) -> bytes:
        self.requests += 1
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def names(self, pattern: str) -> list[str]:
        assert pattern.endswith("/*"), pattern
        names = sorted(name for name in self.files if name.startswith(pattern[:-1]))
        self.requests += 1 + len(names) // PAGE
        return names

    def remove_all(self, names: Sequence[str]) -> None:
        self.requests += bool(names)
        for name in names:
            self.files.pop(name, None)


@dataclass
class _Worker:
    """One worker; `position` is the next document that it sends."""

    leases: Leases
    rate: float
    born: float
    lease: ShardLease | None = None
    after: RowShard | None = None
    position: float = 0.0
    seen: float = 0.0
    ahead: int = 0
    pause: float = 1.0
    is_dead: bool = False


class _Simulation:
    def __init__(self, rows: int, shard_rows: int, fleet: Fleet, timing: Timing, seed: int) -> None:
        self._fleet, self._timing, self._rows = fleet, timing, rows
        self._chance = random.Random(seed)
        self._store = MemoryFolder()
        self._shards = [RowShard(0, first, min(first + shard_rows, rows)) for first in range(0, rows, shard_rows)]
        self._done: dict[str, float] = {}  # documents in journals, by shard
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self.now = 0.0
        self._held = 0.0  # seconds that engines were held, of those that died
        self._alive: list[_Worker] = []
        self._over = 0.0
        self._deaths = self._published = 0
        self._repeated = 0.0
        self._worked = 0.0  # seconds in which shards were worked on

    def run(self) -> FleetOutcome:
        for _ in range(self._fleet.workers):
            self._at(0.0, self._start)
        for moment in self._fleet.deaths:
            self._at(moment, lambda: self._die(self._alive[0]))
        while self._events and not self._over:
            self.now, _, event = heapq.heappop(self._events)
            event()
        seconds = self._over or self.now
        needed = self._rows / self._fleet.rate
        held = self._held + sum(seconds - worker.born for worker in self._alive)
        requests = self._store.requests
        return FleetOutcome(
            seconds=seconds,
            goodput=needed / held,
            repeated=round(self._repeated),
            deaths=self._deaths,
            shards=self._published,
            requests=requests,
            requests_per_shard_minute=60 * requests / self._worked if self._worked else 0.0,
        )

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._number), event))

    def _start(self) -> None:
        fleet = self._fleet
        leases = Leases(
            cast(Folder, self._store),
            self._shards,
            timing=self._timing,
            clock=lambda: self.now,
            worker=str(next(self._number)),
        )
        slowness = self._chance.gauss(-(fleet.spread**2) / 2, fleet.spread)
        worker = _Worker(leases, fleet.rate * math.exp(slowness), self.now)
        self._alive.append(worker)
        if math.isfinite(fleet.hours_between_failures):
            life = self._chance.expovariate(1 / (3600 * fleet.hours_between_failures))
            self._at(self.now + life, lambda: self._die(worker))
        self._at(self.now + fleet.start_seconds, lambda: self._take(worker))

    def _take(self, worker: _Worker) -> None:
        if worker.is_dead or self._over:
            return
        ahead = math.ceil(worker.rate * self._timing.beat * RESERVED_BEATS)
        worker.lease = worker.leases.take(worker.after, ahead=ahead, worth=max(2, worker.ahead))
        if worker.lease is None:
            worker.after = None
            if worker.leases.are_finished(look=False):
                self._over = self.now
            else:
                worker.pause = min(2 * worker.pause, self._timing.beat)
                self._at(self.now + worker.pause, lambda: self._take(worker))
            return
        worker.position = worker.lease.shard.start + self._done.get(worker.lease.name, 0.0)
        worker.seen, worker.pause = self.now, self._timing.beat / 8
        until_end = (worker.lease.reserved - worker.position) / worker.rate
        self._at(self.now + min(self._timing.beat, max(until_end, 1e-3)), lambda: self._beat(worker))

    def _beat(self, worker: _Worker) -> None:
        """Work since the last look, then reserve rows for the next one."""
        lease = worker.lease
        if worker.is_dead or self._over or lease is None:
            return
        self._work(worker)
        worker.ahead = max(1, int(worker.rate * self._timing.beat * RESERVED_BEATS))
        if worker.position >= lease.shard.stop:
            self._publish(worker)
            return
        try:
            worker.leases.extend(lease, math.ceil(worker.position) + worker.ahead)
        except LeaseLost:
            worker.lease = None
            self._take(worker)
            return
        until_end = (min(lease.reserved, lease.shard.stop) - worker.position) / worker.rate
        self._at(self.now + min(self._timing.beat, max(until_end, 1e-3)), lambda: self._beat(worker))

    def _work(self, worker: _Worker) -> None:
        assert worker.lease is not None
        elapsed, worker.seen = self.now - worker.seen, self.now
        self._worked += elapsed
        worker.position = min(worker.position + elapsed * worker.rate, worker.lease.reserved)

    def _publish(self, worker: _Worker) -> None:
        """Publish a shard. Its last documents are still in flight while the next one is read, so nothing waits."""
        assert worker.lease is not None
        try:
            worker.leases.finish(worker.lease)
            self._published += 1
            self._done.pop(worker.lease.name, None)
        except LeaseLost:
            pass
        worker.after, worker.lease = worker.lease.shard, None
        self._take(worker)

    def _die(self, worker: _Worker) -> None:
        if self._over or worker.is_dead:
            return
        worker.is_dead = True
        self._deaths += 1
        self._held += self.now - worker.born
        is_warned = self._chance.random() < self._fleet.warned
        if (lease := worker.lease) is not None:
            self._work(worker)
            lost = self._fleet.in_flight + (0.0 if is_warned else worker.rate * self._fleet.upload_seconds)
            done = max(0.0, worker.position - lease.shard.start - lost)
            self._repeated += worker.position - lease.shard.start - max(done, self._done.get(lease.name, 0.0))
            self._done[lease.name] = max(done, self._done.get(lease.name, 0.0))
            if is_warned:
                worker.leases.give_back(lease)
        self._alive.remove(worker)
        self._at(self.now + self._fleet.away_seconds, self._start)


def simulate(rows: int, shard_rows: int, fleet: Fleet, *, timing: Timing = IN_A_STORE, seed: int = 0) -> FleetOutcome:
    """Simulate a run.

    Args:
        rows: documents, with all prompts: what counts as one.
        shard_rows: documents per shard (`--chunk-rows`).
        fleet: the machines.
        timing: of the leases; default: as in an object store.
        seed: of deaths and rates.
    """
    return _Simulation(rows, shard_rows, fleet, timing, seed).run()


def best_settings(
    rows: int, fleet: Fleet, *, sizes: Sequence[int], uploads: Sequence[float], **options: Any
) -> tuple[int, float, FleetOutcome]:
    """Return shard size, seconds between two uploads of journals, and the outcome with the highest goodput."""
    tried = [
        (size, upload, simulate(rows, size, replace(fleet, upload_seconds=upload), **options))
        for size in sizes
        for upload in uploads
    ]
    return max(tried, key=lambda one: one[2].goodput)
