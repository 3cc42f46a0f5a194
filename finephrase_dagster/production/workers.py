"""Runs several workers, shows their common progress, and completes the datasets when all have ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from finephrase_dagster.artifacts.leases import Leases
from finephrase_dagster.artifacts.processor import on_cpu
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.production.division import lay_out, read_shards
from finephrase_dagster.production.worker import numbered, save_seconds
from finephrase_dagster.rephrase.account import PromptStatistics, load_spent
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.engine import DeviceLease
from finephrase_dagster.rephrase.job import RephraseJob, execute, prepare
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.model_source import DeviceLeases
from finephrase_dagster.rephrase.outcome import read_journal
from finephrase_dagster.rephrase.readme import write_readme
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.survey import Survey

COMMAND = (sys.executable, "-m", "finephrase_dagster.production.worker")
POLL_SECONDS = 0.5
README_SECONDS = 30.0
GRACE_SECONDS = 60.0
LAST_LINES = 10

RunWorkers = Callable[["RephraseJob", "CommonProgress"], FinephraseError | None]
"""Runs workers until all have ended, calls `CommonProgress.update` meanwhile, and returns why one failed, or None."""


class WorkersFailed(FinephraseError, retryable=True):
    """All workers ended before all shards were finished; the message ends with the last lines of one of them."""


def execute_with_workers(
    job: RephraseJob,
    workers: int,
    *,
    run: RunWorkers | None = None,
    leases: DeviceLeases | None = None,
    log: Callable[[str], None] = lambda line: None,
    watch: Callable[[RunStatistics], None] = lambda statistics: None,
    show: Callable[[RunStatistics], None] = lambda statistics: None,
    report: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the datasets of a job with several workers, and return all manifests by prompt.

    Workers on other machines may work on the same datasets at the same time. `run` runs the workers; default: as
    processes of this machine. For the other arguments see `job.execute`.

    Raises:
        WorkersFailed: all workers of this machine ended before all shards were finished; or what `run` returned.
        OrderChanged: see `division.lay_out`.
        FinephraseError: see `job.execute`.
    """
    job, survey, datasets = prepare(job, log)
    job = job.model_copy(update={"retry_failed": False})
    unfinished = {name: dataset for name, dataset in datasets.items() if not dataset.manifest()}
    if unfinished:
        for name, dataset in unfinished.items():
            lay_out(dataset, survey, prompt=name, rows=job.chunk_rows, log=log)
        statistics = RunStatistics(gpu_hour_dollars=job.gpu_hour_dollars)
        progress = CommonProgress(unfinished, survey, statistics, output=job.output, show=show)
        watch(statistics)
        share = max(1, job.concurrency // workers) if job.endpoints else job.concurrency
        run = run or partial(_run_here, workers=workers, leases=leases, log=log)
        failure = run(job.model_copy(update={"concurrency": share}), progress)
        if failure and not progress.are_finished():  # else the rest is another machine's, or there is none
            raise failure
    return execute(job, log=log, show=show, report=report)


def _run_here(
    job: RephraseJob,
    progress: CommonProgress,
    *,
    workers: int,
    leases: DeviceLeases | None,
    log: Callable[[str], None],
) -> WorkersFailed | None:
    """Run workers as processes of this machine."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_Worker.started(job, number, leases, log)) for number in range(workers)]
        while any(worker.process.poll() is None for worker in running):
            progress.update()
            time.sleep(POLL_SECONDS)
    return next((worker.failure() for worker in running if worker.process.returncode), None)


class _Worker:
    """A worker's process, and the last lines that it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Callable[[str], None]) -> None:
        self.process = process
        self.name = name
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self._log = log
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, job: RephraseJob, number: int, leases: DeviceLeases | None, log: Callable[[str], None]
    ) -> Iterator[_Worker]:
        """Start a worker; at the end of the block it has ended, and has given its leases back."""
        name, devices = f"worker {number + 1}", None
        if job.engine is not None and not job.endpoints and leases and not on_cpu():
            devices = leases.lease(job.engine.generator.gpus, f"an engine of {job.model}", log=log)
        worker = cls(_start(numbered(job, number), devices), name, log)
        try:
            yield worker
        finally:
            worker.end()
            if devices:
                devices.release()

    def end(self) -> None:
        """End the process, if it still runs."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()  # it ends with its input
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reading.join(GRACE_SECONDS)

    def failure(self) -> WorkersFailed:
        """Return what is to be raised if its rows were not finished by others."""
        return WorkersFailed(
            f"{self.name} {_how_it_ended(self.process.returncode)} before all rows were finished. Finished rows are "
            "kept; run the command again to resume. Its last lines:\n" + "\n".join(self.lines)
        )

    def _read(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            self.lines.append(line)
            self._log(f"{self.name}: {line}")


def _start(job: RephraseJob, devices: DeviceLease | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **(devices.environment if devices else {})}
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        pass_fds=devices.files if devices else (),
        start_new_session=True,  # an interrupt at the terminal reaches this process alone, which ends the workers
    )
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json().encode() + b"\n")
    process.stdin.flush()
    return process


class CommonProgress:
    """Shows what all workers together have written down, those on other machines, too."""

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        survey: Survey,
        statistics: RunStatistics,
        *,
        output: str | None,
        show: Callable[[RunStatistics], None],
    ) -> None:
        """Read how far the datasets are.

        Args:
            output: the folder whose README shows the progress, if any.
            show: called with the statistics at each update.
        """
        self._datasets, self._survey, self._statistics = datasets, survey, statistics
        self._output, self._show = output, show
        self._written = 0.0
        self._earlier: dict[str, set[str]] = {}
        for name, dataset in datasets.items():
            spent = load_spent(dataset.folder, dataset.fingerprint)
            self._earlier[name] = set(spent.workers)
            statistics.prompts[name] = PromptStatistics(
                total=survey.rows, done_before=_finished_rows(dataset, survey), before=spent.account
            )
        self._seconds = min(map(save_seconds, datasets.values()))
        self._next = 0.0

    def update(self) -> None:
        """Show how far the workers are."""
        self._read()
        self._show(self._statistics)
        if self._output is not None and time.monotonic() - self._written > README_SECONDS:
            self._written = time.monotonic()
            write_readme(folder_at(self._output), self._statistics)

    def are_finished(self) -> bool:
        """Return whether all shards of all datasets are finished."""
        shards = {name: read_shards(dataset.folder, self._survey.layout) for name, dataset in self._datasets.items()}
        return all(
            shards[name] is None or Leases(dataset.folder, shards[name] or []).are_finished()
            for name, dataset in self._datasets.items()
        )

    def _read(self) -> None:
        """Read how far the workers are, if they may have written that down anew."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._seconds
        done: dict[str, dict[str, int]] = {}
        runs: dict[str, Mapping[str, Any]] = {}
        for name, dataset in self._datasets.items():
            spent = load_spent(dataset.folder, dataset.fingerprint)
            self._statistics.prompts[name].before = spent.account
            new = {worker: run for worker, run in spent.workers.items() if worker not in self._earlier[name] and run}
            done[name] = {
                count: sum(run["rows"][count] for run in new.values())
                for count in ("completed", "skipped", "failed", "tokens")
            }
            runs |= new
        self._statistics.record_workers(done, list(runs.values()))


def _finished_rows(dataset: Dataset, survey: Survey) -> int:
    """Return how many rows are in files and journals."""
    shards = read_shards(dataset.folder, survey.layout) or []
    leases = Leases(dataset.folder, shards)
    recorded = 0
    for name in dataset.folder.journals():
        journal = dataset.folder.journal(name)
        recorded += sum(1 for _ in read_journal(journal.read()))
        journal.close()
    return survey.rows - sum(shard.rows for shard in shards) + leases.finished_rows() + recorded


def _how_it_ended(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
