"""One of several workers that write the same datasets, with an engine of its own that stays warm.

As a program, `python -m finephrase_dagster.production.worker [FILE]` reads a job from a JSON file, or else as the first
line of its standard input, and works until all shards are finished. It ends, and gives its leases back, on SIGTERM and,
without a file, when its standard input closes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from datatrove.data import Document

from finephrase_dagster.artifacts.claim import FolderBusy
from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.artifacts.lease import RowShard, Timing
from finephrase_dagster.artifacts.leases import Leases
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.pods.failure import TEMPORARY_FAILURE
from finephrase_dagster.production.division import lay_out, read_shards
from finephrase_dagster.production.shard_ledger import ShardLedger
from finephrase_dagster.production.shard_reader import ShardReader
from finephrase_dagster.rephrase.account import SAVE_SECONDS
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.job import RephraseJob, prepare
from finephrase_dagster.rephrase.metrics import serve_metrics_from_environment
from finephrase_dagster.rephrase.model_source import JobInvalid
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.step import RephraseStep

WAIT_SECONDS = 600.0
"""How long a worker waits for another one that divides the rows into shards."""
NOTICE_SECONDS = 3.0
LOCAL_SAVE_SECONDS = 2.0


Result = TypeVar("Result")


class WorkerStep(RephraseStep):
    """Rephrases the shards that this worker leases, until all are finished; a DataTrove step for any number of tasks.

    It completes no dataset: when all workers have ended, `execute` does that.
    """

    name = "Worker"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Work until all shards are finished.

        Raises:
            EngineFailed, RecipeChanged, LedgerError: see `RephraseStep.run`.
            FolderBusy: a process that is no worker writes one of the datasets.
        """
        with contextlib.ExitStack() as stack:
            joined = {
                name: self._wait_while_busy(partial(self._join, stack, name, dataset))
                for name, dataset in self._datasets.items()
            }
            shards_of = {name: shards for name, shards in joined.items() if shards is not None}
            if shards_of:
                datasets = {name: self._datasets[name] for name in shards_of}
                renderer = self._renderer()
                ledgers = {name: self._shard_ledger(name, shards) for name, shards in shards_of.items()}
                statistics = self._statistics(ledgers, total=0)
                reader = stack.enter_context(ShardReader(self._survey, ledgers, self._settings.log))
                worker = next(iter(ledgers.values())).leases.worker
                seconds = min(map(save_seconds, datasets.values()))
                self._send(reader, datasets, ledgers, renderer, statistics, worker, seconds)
                self._check_input()
        yield from ()

    def _join(self, stack: contextlib.ExitStack, name: str, dataset: Dataset) -> list[RowShard] | None:
        """Share a dataset's folder with the other workers, and return its shards; None if it is complete."""
        lay_out(dataset, self._survey, prompt=name, rows=self._settings.chunk_rows, log=self._settings.log)
        with contextlib.ExitStack() as sharing:
            sharing.enter_context(dataset.folder.share())
            if dataset.manifest():
                return None
            shards = read_shards(dataset.folder, self._survey.layout)
            if shards is None:  # a single writer had the folder in the meantime
                raise FolderBusy(dataset.folder)
            stack.enter_context(sharing.pop_all())
            return shards

    def _wait_while_busy(self, attempt: Callable[[], Result]) -> Result:
        """Make an attempt, again and again while another process has the folder, such as one that divides the rows."""
        began, told = time.monotonic(), False
        while True:
            try:
                return attempt()
            except FolderBusy as error:
                if time.monotonic() - began > WAIT_SECONDS:
                    raise
                if not told and time.monotonic() - began > NOTICE_SECONDS:
                    told = True
                    self._settings.log(f"waiting, for at most {WAIT_SECONDS:.0f} s: {error}")
            time.sleep(0.2)

    def _shard_ledger(self, name: str, shards: list[RowShard]) -> ShardLedger:
        dataset = self._datasets[name]
        dataset.begin(self._settings.log)
        return ShardLedger(
            dataset.folder,
            name,
            Leases(dataset.folder, shards, timing=TIMING),
            keep_raw=dataset.keeps_raw,
            has_rollouts=dataset.has_rollouts,
            layout=self._survey.layout,
        )


TIMING: Timing | None = None
"""Of the leases; None: what suits the folder."""


def save_seconds(dataset: Dataset) -> float:
    """Return how often a worker writes down how far it is: in an object store, each time costs a request."""
    return (
        LOCAL_SAVE_SECONDS
        if isinstance(dataset.folder, LocalFolder)
        else max(SAVE_SECONDS, Timing.of(dataset.folder).beat)
    )


def work(job: RephraseJob, log: Callable[[str], None]) -> None:
    """Work on a job's datasets until all shards are finished.

    Raises:
        FinephraseError: see `WorkerStep.run`.
    """
    with serve_metrics_from_environment(job.model, log=log) as watch:
        for _ in worker_step(job, log, watch).run():
            pass


def worker_step(
    job: RephraseJob,
    log: Callable[[str], None] = lambda line: None,
    watch: Callable[[RunStatistics], None] = lambda statistics: None,
) -> WorkerStep:
    """Return the step of each worker; for the arguments and errors see `job.execute`."""
    job, survey, datasets = prepare(job, log)
    return WorkerStep(
        datasets=datasets,
        survey=survey,
        renderer=job.renderer,
        model=job.model,
        engines=lambda: job.open_engines(log=log),
        settings=job.settings(log=log, watch=watch, show=lambda statistics: None),
    )


def numbered(job: RephraseJob, number: int) -> RephraseJob:
    """Return the job of one worker, whose engine has a log of its own."""
    if job.engine is None:
        return job
    log = job.engine.log.with_name(f"{job.engine.log.stem}-{number + 1}{job.engine.log.suffix}")
    return job.model_copy(update={"engine": job.engine.model_copy(update={"log": log})})


def main() -> None:
    """Execute the job. Exit with status 1 if it fails, or `TEMPORARY_FAILURE` if a retry may help."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work(_job_in_file(Path(sys.argv[1])) if sys.argv[1:] else _job_on_input(), _print)
    except FinephraseError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(TEMPORARY_FAILURE if error.retryable else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _job_in_file(path: Path) -> RephraseJob:
    """Return the job in a file, as the pod of an indexed Job executes it.

    Raises:
        JobInvalid: the file does not exist.
    """
    try:
        job = RephraseJob.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise JobInvalid(
            f"{path}: no such file. Mount the volume that holds FINEPHRASE_DATA in all pods ('volumes' in the cluster "
            "file)."
        ) from error
    return numbered(job, int(os.environ.get("JOB_COMPLETION_INDEX", "0")))


def _job_on_input() -> RephraseJob:
    line = b""
    while not line.endswith(b"\n") and (more := os.read(0, 65_536)):
        line += more
    threading.Thread(target=_end_with_input, daemon=True).start()
    return RephraseJob.model_validate_json(line)


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
