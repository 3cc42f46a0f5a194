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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from finephrase_dagster.artifacts.folder import JOURNALS
from finephrase_dagster.artifacts.leases import Leases
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.production.division import lay_out, read_shards
from finephrase_dagster.production.worker import numbered, save_seconds
from finephrase_dagster.rephrase.account import PromptStatistics, load_spent
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.job import RephraseJob, execute, prepare
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.model_source import DeviceLeases
from finephrase_dagster.rephrase.outcome import read_journal
from finephrase_dagster.rephrase.readme import write_readme
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.survey import Survey

COMMAND = (sys.executable, "-m", "finephrase_dagster.production.worker")
POLL_SECONDS = 0.1
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
    run_here = run is None
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
    # Rows that workers left, which only an end at a bad moment can cause, are sent here if this machine has engines.
    engines = partial(job.open_engines, leases=leases, log=log) if run_here else _no_engines
    return execute(job, engines=engines, log=log, watch=watch, show=show, report=report)


def _no_engines() -> NoReturn:
    raise WorkersFailed("the workers have ended, but rows are left. Run it again: finished rows are kept.")


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
        environments: Sequence[Mapping[str, str]] = [{}] * workers
        files: tuple[int, ...] = ()
        if job.engine is not None and not job.endpoints and leases:  # all at once, so that none waits for another
            what = f"{workers} engines of {job.model}"
            devices = leases.lease(workers * job.engine.generator.gpus, what, log=log)
            stack.callback(devices.release)
            environments, files = devices.environments(workers), devices.files
        running: list[_Worker] = []
        stack.callback(_end, running)
        for number, environment in enumerate(environments):
            running.append(_Worker(numbered(job, number), f"worker {number + 1}", environment, files, log))
        while any(worker.process.poll() is None for worker in running):
            progress.update()
            time.sleep(POLL_SECONDS)
    return next((worker.failure() for worker in running if worker.process.returncode), None)


class _Worker:
    """A worker's process, and the last lines that it wrote."""

    def __init__(
        self,
        job: RephraseJob,
        name: str,
        environment: Mapping[str, str],
        files: tuple[int, ...],
        log: Callable[[str], None],
    ) -> None:
        """Start a worker with additional environment variables, and files that it inherits."""
        self.name = name
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self._log = log
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            pass_fds=files,
            start_new_session=True,  # an interrupt at the terminal reaches this process alone, which ends the workers
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its last lines say why
            assert self.process.stdin is not None
            self.process.stdin.write(job.model_dump_json().encode() + b"\n")
            self.process.stdin.flush()

    def close_input(self) -> None:
        """Tell the process to end, if it still runs."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def end(self) -> None:
        """Wait until the process has ended and has given its leases back; kill it if it takes too long."""
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reading.join(GRACE_SECONDS)

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


def _end(workers: Sequence[_Worker]) -> None:
    """End all workers, those that still run at the same time."""
    for worker in workers:
        worker.close_input()
    for worker in workers:
        worker.end()


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
    for name in dataset.folder.names(f"{JOURNALS}/*"):  # read as files: opening a journal would create it
        with contextlib.suppress(FileNotFoundError):  # its shard was published in the meantime
            recorded += sum(1 for _ in read_journal(dataset.folder.read(name)))
    return survey.rows - sum(shard.rows for shard in shards) + leases.finished_rows() + recorded


def _how_it_ended(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
