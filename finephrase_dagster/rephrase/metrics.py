"""Prometheus metrics of a rephrasing run, served while it lasts; on 127.0.0.1 unless told otherwise.

The page shows the run's statistics at the moment it is read; nothing is counted twice. Each run has a registry and a
server of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.statistics import RunStatistics

METRICS_PORT, METRICS_HOST = "FINEPHRASE_METRICS_PORT", "FINEPHRASE_METRICS_HOST"
HOST = "127.0.0.1"


class MetricsPortWrong(FinephraseError, exit_status=2):
    """The given text is neither a port nor a range of ports."""


class MetricsPortInUse(FinephraseError):
    """Every port that may be used is taken by another program."""


def ports_of(text: str) -> range:
    """Return the ports of `9400` or `9400-9409`; a run takes the first free one.

    Raises:
        MetricsPortWrong: the text is neither a port nor a range.
    """
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65_535:
        raise MetricsPortWrong(
            f"--metrics-port ({METRICS_PORT}): {text!r} is neither a port nor a range of ports; write 9400, or "
            "9400-9409"
        )
    return range(first, last + 1)


@contextlib.contextmanager
def serve_metrics_from_environment(
    model: str, *, log: Callable[[str], None]
) -> Iterator[Callable[[RunStatistics], None]]:
    """Serve metrics if the environment names a port; without a free port the run has no metrics."""
    with contextlib.ExitStack() as run:
        try:
            watch = run.enter_context(serve_metrics(os.environ.get(METRICS_PORT), model=model, log=log))
        except (MetricsPortInUse, MetricsPortWrong) as error:
            log(f"no metrics: {error}")
            watch = _unwatched
        yield watch


def _unwatched(statistics: RunStatistics) -> None:
    pass


@contextlib.contextmanager
def serve_metrics(
    ports: str | None, *, model: str, log: Callable[[str], None]
) -> Iterator[Callable[[RunStatistics], None]]:
    """Serve a run's metrics within this block; yields a function that takes the run's statistics.

    Args:
        ports: a port or a range, see `ports_of`; None or empty for no server.
        model: the generator's name, a label of all metrics.
        log: receives the address.

    Raises:
        MetricsPortWrong, MetricsPortInUse
    """
    if not ports:
        yield _unwatched
        return
    host = os.environ.get(METRICS_HOST) or HOST
    page = RunMetrics(model)
    registry = CollectorRegistry()
    registry.register(page)
    for port in ports_of(ports):
        with contextlib.suppress(OSError):
            server, thread = start_http_server(port, addr=host, registry=registry)
            break
    else:
        raise MetricsPortInUse(
            f"port {ports} on {host} is in use: choose another with --metrics-port or {METRICS_PORT}, or give a range, "
            "such as 9400-9409, from which each run takes a free port"
        )
    log(f"metrics: http://{host}:{port}/metrics")
    try:
        yield page.show
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class RunMetrics(Collector):
    """The statistics of a run as metrics; zero until `show` is called."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._statistics = RunStatistics()

    def show(self, statistics: RunStatistics) -> None:
        """Show these statistics from now on."""
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        run = self._statistics
        done = run.done_before + run.done
        sent = run.sent + run.retries.total()
        yield self._counter("requests_sent", "Requests sent to the engines, retries included.", sent)
        yield self._counter("requests_completed", "Requests that returned a completion.", run.completed)
        yield self._counters("requests_failed", "Requests given up, labelled by reason.", run.failures)
        yield self._counters("requests_repeated", "Retries, labelled by cause of the retry.", run.retries)
        yield self._counter("rows_skipped", "Rows without text, counted once per prompt; never sent.", run.skipped)
        yield self._counter("prompt_tokens", "Prompt tokens of completed requests.", run.prompt_tokens)
        yield self._counter("completion_tokens", "Completion tokens of completed requests.", run.completion_tokens)
        yield self._counter("rollouts_discarded", "Rollouts of rows that were not kept.", run.discarded[0])
        yield self._counter("completion_tokens_discarded", "Completion tokens of discarded rollouts.", run.discarded[2])
        yield self._counter("chunks_written", "Output files written.", run.chunks)
        yield self._counter("engine_restarts", "Engine restarts.", run.restarts)
        yield self._counter("engine_busy_seconds", "Seconds with at least one request in flight.", run.engine_seconds)
        yield self._gauge("engine_start_seconds", "Seconds until the engines answered.", run.start_seconds)
        yield self._gauge("requests_in_flight", "Requests at the engines now.", run.in_flight)
        yield self._gauge(
            "rows_done_before", "Rows finished by earlier runs, counted once per prompt.", run.done_before
        )
        yield self._gauge("rows_done", "Rows finished by this run and earlier ones, once per prompt.", done)
        yield self._gauge("rows_left", "Rows not finished, once per prompt.", max(0, run.total - done))
        yield self._gauge(
            "completion_tokens_per_second",
            "Completion tokens per second with at least one request in flight, averaged over the run.",
            run.tokens_per_second,
        )
        yield from self._of_prompts(run)

    def _of_prompts(self, run: RunStatistics) -> Iterator[Metric]:
        """Yield how far each dataset is, where its engines' time went, and its cost if it is known."""
        accounts, projected, prompts = run.accounts(), run.projected() or {}, dict(run.prompts)
        if run.seconds_left is not None:
            yield self._gauge("seconds_left", "Estimated seconds until all rows are finished.", run.seconds_left)
        yield self._by_prompt("prompt_rows", "Rows of the input.", {name: one.total for name, one in prompts.items()})
        yield self._by_prompt("prompt_rows_done", "Rows finished.", {name: one.done for name, one in prompts.items()})
        tokens = {name: one.tokens_before + one.tokens for name, one in prompts.items()}
        yield self._by_prompt("prompt_completion_tokens", "Completion tokens of kept completions.", tokens)
        facts = {name: account.facts() for name, account in accounts.items()}
        goodput = {name: fact["goodput"] for name, fact in facts.items()}
        yield self._by_prompt("goodput_ratio", "Share of the engines' time that the kept tokens need.", goodput)
        for suffix, of in (("", accounts), ("_projected", projected)):
            text = f"Cost over all runs{', as it will be at the end' if suffix else ''}."
            hours = {name: account.facts()["gpu_hours"] for name, account in of.items()}
            yield self._by_prompt(f"gpu_hours{suffix}", text, hours)
            yield self._by_prompt(f"cost_dollars{suffix}", text, {name: one.dollars for name, one in of.items()})
        metric = GaugeMetricFamily(
            "finephrase_engine_seconds",
            "Where the engines' time went, over all runs.",
            labels=["model", "prompt", "part"],
        )
        for name, fact in facts.items():
            for part, seconds in fact["parts"].items():
                metric.add_metric([self._model, name, part], seconds)
        yield metric

    def _by_prompt(self, name: str, text: str, values: Mapping[str, float | None]) -> Metric:
        """Return a gauge with the label `prompt`; a value that is unknown is left out."""
        metric = GaugeMetricFamily(f"finephrase_{name}", text, labels=["model", "prompt"])
        for prompt, value in values.items():
            if value is not None:
                metric.add_metric([self._model, prompt], value)
        return metric

    def _counter(self, name: str, text: str, value: float) -> Metric:
        metric = CounterMetricFamily(f"finephrase_{name}", text, labels=["model"])
        metric.add_metric([self._model], value)
        return metric

    def _counters(self, name: str, text: str, values: dict[str, int]) -> Metric:
        metric = CounterMetricFamily(f"finephrase_{name}", text, labels=["model", "reason"])
        for reason, value in dict(values).items():  # a copy, because the run goes on counting
            metric.add_metric([self._model, reason], value)
        return metric

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        metric = GaugeMetricFamily(f"finephrase_{name}", text, labels=["model"])
        metric.add_metric([self._model], value)
        return metric
