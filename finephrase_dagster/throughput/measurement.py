"""One measurement: an engine is started with a setting, warmed up, measured in its steady state, and stopped.

Each measurement has an engine of its own. A shared one would know documents of the measurement before from its prefix
cache and its suffix trees, and a start is part of what varies between runs of one setting.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from finephrase_dagster.artifacts.processes import last_lines
from finephrase_dagster.rephrase.counters import read_counters
from finephrase_dagster.rephrase.dataset import NothingCompleted
from finephrase_dagster.rephrase.engine import Engine, EngineFailed, EngineLike, last_errors
from finephrase_dagster.rephrase.job import execute
from finephrase_dagster.rephrase.model_source import DeviceLeases
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.throughput.sweep_file import SweepSpec
from finephrase_dagster.throughput.workload import Workload


class _Enough(Exception):
    """The engine has been measured for long enough."""


class _Overdue(Exception):
    """The work takes too long."""


class _OneLife:
    """An engine whose death ends the measurement: what a restarted one does is another measurement."""

    restartable = True  # also: its counters are read

    def __init__(self, engine: Engine) -> None:
        self.url, self.model, self.check = engine.url, engine.model, engine.check

    def restart(self) -> None:
        raise EngineFailed(f"engine {self.model} ended during a measurement")

    def stop(self) -> None:
        """Do nothing: the measurement stops it."""


FULL = 0.8
"""The share of the places that are taken while there is work: between two requests, a place is free for a moment."""


class Reading(NamedTuple):
    """What had been counted at a moment.

    Attributes:
        seconds: the moment, on any clock.
        done: requests that were finished.
        in_flight: requests at the engine.
        counted: the engine's counters, see `rephrase/counters.py`.
    """

    seconds: float
    done: int
    in_flight: int
    counted: dict[str, float]


class SteadyState(NamedTuple):
    """Figures of the steady state; shares are None if the engine counts nothing of the kind."""

    seconds: float
    tokens_per_second: float
    prefix_cache_hit_rate: float | None
    speculation_acceptance: float | None


def steady_state(samples: Sequence[Reading], concurrency: int) -> SteadyState | None:
    """Return the figures of the steady state that samples show; None if there was none yet.

    It begins when as many requests are finished as are in flight: until then, all prompts were read at once. It ends
    with the last sample at which the places were taken: after it, there was nothing left to send.
    """
    begun = [number for number, sample in enumerate(samples) if sample.done >= concurrency]
    full = [number for number, sample in enumerate(samples) if sample.in_flight >= FULL * concurrency]
    if not begun or not full or full[-1] <= begun[0]:
        return None
    first, last = samples[begun[0]], samples[full[-1]]
    seconds = last.seconds - first.seconds
    counts = {name: count - first.counted.get(name, 0.0) for name, count in last.counted.items()}
    if seconds <= 0 or counts.get("generated", 0.0) <= 0:
        return None

    def share(part: str, of: str) -> float | None:
        return round(counts.get(part, 0.0) / counts[of], 4) if counts.get(of) else None

    return SteadyState(
        seconds=seconds,
        tokens_per_second=counts["generated"] / seconds,
        prefix_cache_hit_rate=share("prefix_hits", "prefix_queries"),
        speculation_acceptance=share("accepted", "drafted"),
    )


Kind = Literal["out of memory", "time-out", "start failure", "other"]

_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory|No available memory for the cache|"
    r"larger than the available KV cache|less than (desired|requested) .*(memory|utilization)|"
    r"not enough GPU memory|memory ran out",
    re.IGNORECASE,
)


class Mishap(NamedTuple):
    """The kind of a failure, and the line of the log that shows it."""

    kind: Kind
    line: str


def classify(log: Path, *, started: bool, timed_out: bool) -> Mishap:
    """Return why an engine could not be measured.

    A lack of memory is looked for first, because what follows it in a log, such as a failed start, is its consequence.

    Args:
        log: of this engine alone.
        started: whether it had answered.
        timed_out: whether it was stopped because it took too long.
    """
    errors = [line.strip() for line in last_errors(log).splitlines()] or [""]
    for line in (*errors, *last_lines(log)):
        if _NO_MEMORY.search(line):
            return Mishap("out of memory", line)
    return Mishap("time-out" if timed_out else "other" if started else "start failure", errors[0])


SAMPLE_SECONDS = 0.5
"""Time between two samples; reading the engine's counters takes 20 ms of a core, which the engine needs on a CPU."""


class Meter:
    """Takes samples of a run in a thread of its own."""

    def __init__(self, engine: EngineLike, concurrency: int) -> None:
        self._engine, self._concurrency = engine, concurrency
        self._statistics = RunStatistics()
        self._samples: list[Reading] = []

    def watch(self, statistics: RunStatistics) -> None:
        """Take samples of these statistics from now on, which a run updates in place."""
        self._statistics = statistics

    @property
    def steady(self) -> SteadyState | None:
        """The steady state so far."""
        return steady_state(self._samples, self._concurrency)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Take samples within the block."""
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                statistics, counted = self._statistics, read_counters([self._engine])
                if counted:
                    now = time.monotonic()
                    self._samples.append(Reading(now, statistics.done, statistics.in_flight, dict(counted)))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measures engines with the work and within the limits of a sweep.

    Attributes:
        folder: for the files of the work.
        show: called with the statistics of the current run twice a second.
    """

    workload: Workload
    spec: SweepSpec
    folder: Path
    leases: DeviceLeases | None
    log: Callable[[str], None]
    show: Callable[[RunStatistics], None]

    def measure(self, flags: Mapping[str, Any], concurrency: int, log: Path) -> dict[str, Any]:
        """Return the figures of one engine: its `steady` state, or its `failure`; and the seconds that it took.

        Args:
            concurrency: requests in flight.
            log: file for the engine's output; kept if the measurement fails.
        """
        log.unlink(missing_ok=True)
        engine, times = self._engine(flags, log), dict[str, float]()
        began = time.monotonic()  # waiting for devices is no part of it
        result = self._run(engine, concurrency, times)
        figures = {name: round(seconds, 3) for name, seconds in times.items()}
        figures["seconds"] = round(time.monotonic() - began, 3)
        if isinstance(result, Mishap):
            return {**figures, "failure": result._asdict()}
        log.unlink(missing_ok=True)
        return {**figures, "steady": result._asdict()}

    def _engine(self, flags: Mapping[str, Any], log: Path) -> Engine:
        job = self.workload.job
        assert job.engine is not None
        generator = job.engine.generator.model_copy(update={"engine": dict(flags)})
        spec = job.engine.model_copy(update={"generator": generator, "log": log})
        lease = self.leases and self.leases.lease(generator.gpus, f"the sweep of {job.model}", log=self.log)
        engine = job.model_copy(update={"engine": spec}).new_engine((lambda: lease) if lease else None)
        engine.start_seconds = self.spec.start_seconds
        return engine

    def _run(self, engine: Engine, concurrency: int, times: dict[str, float]) -> SteadyState | Mishap:
        """Start, warm up and measure an engine, and stop it; the seconds of each are put into `times`."""
        began = time.monotonic()
        try:
            with _timed(times, "start_seconds"):
                engine.start()
            with _timed(times, "warmup_seconds"):
                self._send(self.workload.warmup, engine, concurrency)
            meter = Meter(_OneLife(engine), concurrency)
            with _timed(times, "measured_seconds"), meter.running(), contextlib.suppress(_Enough):
                self._send(self.workload.documents, engine, concurrency, meter)
            return meter.steady or Mishap("other", "the engine was never steady; raise 'documents' in the sweep file")
        except _Overdue:
            return classify(engine.log, started=True, timed_out=True)
        except (EngineFailed, NothingCompleted):
            started = "start_seconds" in times
            late = not started and time.monotonic() - began >= self.spec.start_seconds
            return classify(engine.log, started=started, timed_out=late)
        finally:
            engine.stop()

    def _send(self, documents: pa.Table, engine: Engine, concurrency: int, meter: Meter | None = None) -> None:
        """Send documents until all are done or, with a meter, the steady state is long enough."""
        deadline = time.monotonic() + self.spec.measure_seconds

        def show(statistics: RunStatistics) -> None:
            self.show(statistics)
            steady = meter.steady if meter else None
            is_late = time.monotonic() > deadline
            if steady and (steady.seconds >= self.spec.seconds or is_late):
                raise _Enough
            if is_late:
                raise _Overdue

        execute(
            self.workload.part(documents, self.folder, concurrency),
            engines=lambda: contextlib.nullcontext([_OneLife(engine)]),
            log=self.log,
            watch=meter.watch if meter else lambda statistics: None,
            show=show,
            report=lambda lines: None,
        )


@contextlib.contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    """Put the seconds that a block takes into `times`, unless it raises."""
    began = time.monotonic()
    yield
    times[name] = time.monotonic() - began
