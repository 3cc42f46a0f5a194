"""A meter of a measurement: samples of what an engine and its client have counted, and when there are enough."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from finephrase_dagster.rephrase.counters import read_counters
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.throughput.steady import Reading, SteadyState, steady_state

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
