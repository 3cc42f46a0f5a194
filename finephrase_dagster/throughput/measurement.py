"""One measurement: an engine is started with a setting, warmed up, measured in its steady state, and stopped.

Each measurement has an engine of its own. A shared one would know documents of the measurement before from its prefix
cache and its suffix trees, and a start is part of what varies between runs of one setting.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from finephrase_dagster.rephrase.dataset import NothingCompleted
from finephrase_dagster.rephrase.engine import Engine, EngineFailed
from finephrase_dagster.rephrase.job import execute
from finephrase_dagster.rephrase.model_source import DeviceLeases
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.throughput.meter import Meter
from finephrase_dagster.throughput.mishap import Mishap, classify
from finephrase_dagster.throughput.steady import SteadyState
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
