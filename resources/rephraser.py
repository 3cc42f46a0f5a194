"""The rephraser as a resource: it sends a cell's documents through an engine, and keeps engines for later runs.

An engine takes tens of seconds to start. Within `engines_kept`, a process that runs several cells of one model keeps
its engine; otherwise an engine stops with its run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration import devices
from finephrase_dagster.orchestration.devices import Lease, are_free, lease
from finephrase_dagster.orchestration.progress import Progress, report
from finephrase_dagster.orchestration.retries import is_infrastructure
from finephrase_dagster.pods.failure import PodMisconfigured
from finephrase_dagster.study.component import Cell

if TYPE_CHECKING:
    from finephrase_dagster.production.workers import RunWorkers
    from finephrase_dagster.rephrase.engine import Engine
    from finephrase_dagster.rephrase.job import RephraseJob
    from finephrase_dagster.rephrase.statistics import RunStatistics

IN_FLIGHT = 128
"""Requests in flight, unless a setting or a throughput sweep says otherwise."""

_engines: dict[str, Engine] = {}
_keepers = 0


@contextlib.contextmanager
def engines_kept() -> Iterator[None]:
    """Keep engines after their runs within this block; stop them at its end."""
    global _keepers
    _keepers += 1
    try:
        yield
    finally:
        _keepers -= 1
        _stop_unless_kept()


def _stop_unless_kept() -> None:
    if _keepers == 0:
        _stop_all()


def _stop_all() -> None:
    while _engines:
        _engines.popitem()[1].stop()


class _Shown:
    """Shows how far a run is: to whoever watches this process twice a second, and as lines of a log."""

    def __init__(self, job: RephraseJob, log: Callable[[str], None]) -> None:
        from finephrase_dagster.rephrase.progress import Lines

        self._lines = Lines(log, seconds=job.log_seconds)
        self._certain = job.concurrency  # until so many requests are done, their rate says little

    def __call__(self, statistics: RunStatistics) -> None:
        self._lines(statistics)
        cost = statistics.cost()
        paid = [f"{cost['gpu_hours']:.2f} GPU-hours"] if cost["gpu_hours"] else []
        paid += [f"${cost['dollars']:.2f}"] if cost["dollars"] else []
        failed = [f"{statistics.failed:,} failed"] if statistics.failed else []
        rate = f"{statistics.requests_per_second:,.1f} requests/s, {statistics.tokens_per_second:,.0f} tokens/s"
        report(
            Progress(
                done=statistics.done_before + statistics.done,
                total=statistics.total,
                unit="requests",
                rate=", ".join([rate, *paid, *failed]),
                seconds_left=statistics.seconds_left if statistics.done >= self._certain else None,
                sample=dict(statistics.sample),
            )
        )


class Rephraser(dg.ConfigurableResource):
    """Rephrases with vLLM on this machine, or with the endpoints of the installation (`FINEPHRASE_ENDPOINTS`).

    Endpoints are no setting of a run, because who launches it must not choose where documents and the API key go.
    """

    concurrency: int | None = Field(
        default=None,
        ge=1,
        description="maximum number of requests in flight; default: what the throughput sweep chose, else 128",
    )
    workers: int = Field(
        default=1,
        ge=1,
        description="processes, or pods, that share the rows of a cell's datasets, each with an engine and GPUs",
    )
    chunk_rows: int = Field(default=5000, ge=1, description="input rows per data file")
    gpu_hour_dollars: float | None = Field(
        default=None, ge=0, description="price per GPU-hour in dollars; used to compute the cost"
    )
    log_seconds: float = Field(default=30, gt=0, description="seconds between two log lines on the progress")

    def rephrase(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], *, log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """Write a cell's datasets that are not complete yet, and return all manifests by prompt.

        All prompts are run together. If that fails, but not for a reason of the infrastructure, each prompt is run
        alone, so that one faulty prompt does not hold up the others; then its error is raised. A pod that cannot be
        created as it is configured fails for every prompt, so that is not tried again.
        """
        try:
            return self._run(lineage, cell, datasets, log)
        except Exception as error:
            if len(datasets) == 1 or is_infrastructure(error) or isinstance(error, PodMisconfigured):
                raise
            log(f"{error}\nRunning each prompt alone.")
        failures: list[Exception] = []
        manifests: dict[str, dict[str, Any]] = {}
        with engines_kept():
            for prompt, artifact in datasets.items():
                try:
                    manifests |= self._run(lineage, cell, {prompt: artifact}, log)
                except Exception as error:
                    log(f"{prompt}: {error}")
                    failures.append(error)
        if failures:
            raise failures[0]
        return manifests

    def _run(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """Run all prompts together: the requests of a document follow one another, so that they share its prefix."""
        from finephrase_dagster.rephrase.job import execute
        from finephrase_dagster.rephrase.metrics import serve_metrics_from_environment

        job = self._job(lineage, cell, datasets)
        record_expected_cost(lineage, job, datasets.values())
        if self.workers > 1:
            return self._run_workers(job, log)
        if job.engine and (kept := _engines.get(_engine_key(job))):  # perhaps started for another generator
            job = job.model_copy(update={"model": kept.model})
        with serve_metrics_from_environment(cell.generator, log=log) as watch:
            engines = None if job.endpoints else lambda: contextlib.nullcontext([_kept_engine(job, log)])
            try:
                return execute(job, engines=engines, log=log, watch=watch, show=_Shown(job, log))
            finally:
                _stop_unless_kept()

    def _run_workers(
        self, job: RephraseJob, log: Callable[[str], None], run: RunWorkers | None = None
    ) -> dict[str, dict[str, Any]]:
        from finephrase_dagster.production.workers import execute_with_workers
        from finephrase_dagster.rephrase.metrics import serve_metrics_from_environment

        _stop_all()  # engines that this process keeps would hold devices that the workers need
        with serve_metrics_from_environment(job.model, log=log) as watch:
            show = _Shown(job, log)
            return execute_with_workers(job, self.workers, run=run, leases=devices, log=log, watch=watch, show=show)

    def _job(self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact]) -> RephraseJob:
        from finephrase_dagster.artifacts.sweep import swept_settings
        from finephrase_dagster.rephrase.job import cell_job

        swept = swept_settings(lineage, cell.generator)
        return cell_job(
            lineage,
            cell,
            datasets,
            concurrency=self.concurrency or (swept.concurrency if swept else IN_FLIGHT),
            chunk_rows=self.chunk_rows,
            gpu_hour_dollars=self.gpu_hour_dollars,
            log_seconds=self.log_seconds,
        )


def record_expected_cost(lineage: Lineage, job: RephraseJob, datasets: Iterable[Artifact]) -> None:
    """Write down what the plan expects of datasets that are begun now, to be compared with what they take."""
    from finephrase_dagster.artifacts.folder import LocalFolder
    from finephrase_dagster.artifacts.graph import items
    from finephrase_dagster.plan.cost import Estimator
    from finephrase_dagster.plan.measured import Measured
    from finephrase_dagster.plan.published import Published
    from finephrase_dagster.rephrase.account import record_expected

    begun = [artifact for artifact in datasets if not artifact.folder.exists()]
    if not begun or any(target.earlier for target in job.targets.values()):  # the plan cannot know what is reused
        return
    graph = {item.name: item for item in items(lineage)}
    estimator = Estimator(lineage, published=Published.read(), measured=Measured(lineage.paths.data))
    for artifact in begun:
        cost = estimator.cost(graph[artifact.name])
        if cost.unknown is None:
            artifact.folder.mkdir(parents=True, exist_ok=True)
            record_expected(LocalFolder(artifact.folder), {"gpu_hours": cost.gpu_hours, "hours": cost.hours})


def _engine_key(job: RephraseJob) -> str:
    """Return a hash of what determines the engine of a job; generators that only sample differently share one."""
    from finephrase_dagster.artifacts.recipe import fixed_day

    assert job.engine is not None
    generator, day = job.engine.generator, fixed_day(next(iter(job.targets.values())).recipe)
    return fingerprint([str(job.engine.model), generator.context, generator.engine, day])


def _kept_engine(job: RephraseJob, log: Callable[[str], None]) -> Engine:
    """Return a running engine for a job, which an earlier job may have started."""
    assert job.engine is not None
    generator, key = job.engine.generator, _engine_key(job)
    engine = _engines.get(key)
    if engine is None or not engine.running:
        if engine is not None:
            _engines.pop(key).stop()
        log(f"starting an engine for {job.model}")

        def devices() -> Lease:
            if not are_free(generator.gpus):
                _stop_all()  # idle engines that this process keeps make room first
            return lease(generator.gpus, f"an engine of {job.model}", log=log)

        engine = job.new_engine(devices)
        _engines[key] = engine.start()
    return engine
