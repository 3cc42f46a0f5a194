"""Metrics of a run of rephrasing in Prometheus' text format, while it lasts; on 127.0.0.1 unless told otherwise.

Nothing is counted here: a page shows the statistics that the run keeps anyway, as they are when it is asked for. Each
run has a registry and a server of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.statistics import RunStatistics

METRICS_PORT, METRICS_HOST = "FINEPHRASE_METRICS_PORT", "FINEPHRASE_METRICS_HOST"
HOST = "127.0.0.1"


class MetricsPortWrong(FinephraseError, exit_status=2):
    """What was given is neither a port nor a range of ports."""


class MetricsPortInUse(FinephraseError):
    """Other programs listen on every port that may be used; the message says how to give more."""


def ports_of(said: str) -> range:
    """The ports of `9400`, or of `9400-9409`, of which a run takes the first that is free.

    Raises:
        MetricsPortWrong: it is neither.
    """
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", said.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65_535:
        raise MetricsPortWrong(f"{said!r} is neither a port nor a range of ports; write 9400, or 9400-9409")
    return range(first, last + 1)


@contextlib.contextmanager
def served_if_told(model: str, *, log: Callable[[str], None]) -> Iterator[Callable[[RunStatistics], None]]:
    """As `served`, where the environment says; a run that finds no port goes on without metrics."""
    with contextlib.ExitStack() as run:
        try:
            watch = run.enter_context(served(os.environ.get(METRICS_PORT), model=model, log=log))
        except (MetricsPortInUse, MetricsPortWrong) as error:
            log(f"no metrics: {METRICS_PORT}: {error}")
            watch = _unwatched
        yield watch


def _unwatched(statistics: RunStatistics) -> None:
    pass


@contextlib.contextmanager
def served(said: str | None, *, model: str, log: Callable[[str], None]) -> Iterator[Callable[[RunStatistics], None]]:
    """Serves a run's metrics within this block; yields what takes its statistics.

    Args:
        said: a port or a range, as for `ports_of`; None or empty for no server.
        model: the name of the generator, a label of all metrics.
        log: takes the address.

    Raises:
        MetricsPortWrong, MetricsPortInUse
    """
    if not said:
        yield _unwatched
        return
    host = os.environ.get(METRICS_HOST) or HOST
    page = RunMetrics(model)
    registry = CollectorRegistry()
    registry.register(page)
    for port in ports_of(said):
        with contextlib.suppress(OSError):
            server, thread = start_http_server(port, addr=host, registry=registry)
            break
    else:
        raise MetricsPortInUse(
            f"port {said} on {host} is in use: choose another with --metrics-port or {METRICS_PORT}, or give a range, "
            "such as 9400-9409, of which each run takes a free one"
        )
    log(f"metrics: http://{host}:{port}/metrics")
    try:
        yield page.show
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class RunMetrics(Collector):
    """A run's statistics as metrics; before there are statistics, all are zero."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._statistics = RunStatistics()

    def show(self, statistics: RunStatistics) -> None:
        """From now on shows these statistics."""
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        statistics = self._statistics
        done = statistics.done_before + statistics.done
        sent = statistics.sent + statistics.retries.total()
        yield self._counter("requests_sent", "Requests sent to the engines, repeated ones included.", sent)
        yield self._counter("requests_completed", "Requests that got a completion.", statistics.completed)
        yield self._counters("requests_failed", "Requests given up, by what refused them.", statistics.failures)
        yield self._counters("requests_repeated", "Requests sent again, by what made it needful.", statistics.retries)
        yield self._counter("rows_skipped", "Rows that are sent to no engine, once a prompt.", statistics.skipped)
        yield self._counter("prompt_tokens", "Tokens of the prompts of completed requests.", statistics.prompt_tokens)
        yield self._counter("completion_tokens", "Tokens of their completions.", statistics.completion_tokens)
        yield self._counter("chunks_written", "Files of rows published under their final names.", statistics.chunks)
        yield self._counter("engine_restarts", "Starts of an engine beyond its first.", statistics.restarts)
        yield self._counter("engine_busy_seconds", "Time with a request at the engines.", statistics.engine_seconds)
        yield self._gauge("engine_start_seconds", "Time until the engines answered.", statistics.start_seconds)
        yield self._gauge("requests_in_flight", "Requests that are with the engines.", statistics.in_flight)
        yield self._gauge("rows_found", "Rows that earlier runs had done, once a prompt.", statistics.done_before)
        yield self._gauge("rows_done", "Rows that are done, those of earlier runs included.", done)
        yield self._gauge("rows_left", "Rows that are not done.", max(0, statistics.total - done))
        yield self._gauge(
            "completion_tokens_per_second",
            "Of the run so far, while engines had requests.",
            statistics.tokens_per_second,
        )

    def _counter(self, name: str, text: str, value: float) -> Metric:
        metric = CounterMetricFamily(f"finephrase_{name}", text, labels=["model"])
        metric.add_metric([self._model], value)
        return metric

    def _counters(self, name: str, text: str, values: dict[str, int]) -> Metric:
        metric = CounterMetricFamily(f"finephrase_{name}", text, labels=["model", "reason"])
        for reason, value in dict(values).items():  # a copy: the run counts on
            metric.add_metric([self._model, reason], value)
        return metric

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        metric = GaugeMetricFamily(f"finephrase_{name}", text, labels=["model"])
        metric.add_metric([self._model], value)
        return metric
