"""Execution settings: how a rephrasing run executes. None of them is part of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from finephrase_dagster.rephrase.policy import RetryPolicy
from finephrase_dagster.rephrase.statistics import RunStatistics


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """How a run executes.

    Attributes:
        concurrency: maximum number of requests in flight.
        chunk_rows: input rows per output file.
        gpus: number of GPUs serving the model; 0 on a CPU, None if unknown.
        stated: completion tokens per second that are stated for one GPU, if there is such a figure.
        model: the name of the model for people; None: the one that requests use.
        output: folder of all datasets, whose README shows the progress; None: no README.
        watch: called once, when the run begins, with its statistics, which are updated in place.
        show: called with the statistics twice a second.
        log: receives a line per incident.
        report: receives the row counts of the datasets at the end.
    """

    concurrency: int
    chunk_rows: int
    gpus: int | None = 0
    gpu_hour_dollars: float | None = None
    stated: float | None = None
    model: str | None = None
    output: str | None = None
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    watch: Callable[[RunStatistics], None] = lambda statistics: None
    show: Callable[[RunStatistics], None] = lambda statistics: None
    log: Callable[[str], None] = lambda line: None
    report: Callable[[str], None] = lambda lines: None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.chunk_rows < 1:
            raise ValueError(f"concurrency {self.concurrency} and chunk_rows {self.chunk_rows} must be at least 1")
