"""`rephrase`: documents through any set of prompts of one generator, one exact dataset a prompt.

A DataTrove pipeline (reader, inference step) under DataTrove's local executor. What is finished is said by
the datasets' files alone; DataTrove's own markers are not used. What a recipe holds is the caller's.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from finephrase_dagster.rephrase.counters import counters
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.figures import Figures
from finephrase_dagster.rephrase.ledger import Dataset, Ledger, LedgerError
from finephrase_dagster.rephrase.reader import InputReader
from finephrase_dagster.rephrase.render import RendererLike
from finephrase_dagster.rephrase.step import RephraseStep
from finephrase_dagster.rephrase.survey import Survey
from finephrase_dagster.rephrase.window import Window


class NothingCompleted(RuntimeError):
    """Every request of a dataset failed; the message holds the most common reason."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every request says, beside its messages.

    Attributes:
        model: the name that the server has for it.
        max_tokens: tokens a completion may have.
        sampling: temperature, top_p, top_k; what is left out, the server decides.
        seed: what the requests' own seeds derive from; None: none is sent.
    """

    model: str
    max_tokens: int
    sampling: Mapping[str, float | int]
    seed: int | None

    @classmethod
    def of(cls, model: str, max_tokens: int, sampling: Mapping[str, float | int]) -> Request:
        """The request of sampling values among which `seed` may be."""
        drawn = {name: value for name, value in sampling.items() if name != "seed"}
        seed = sampling.get("seed")
        return cls(model=model, max_tokens=max_tokens, sampling=drawn, seed=None if seed is None else int(seed))

    def body(self) -> dict[str, Any]:
        """The part of the JSON that all requests have in common."""
        return {"model": self.model, "max_tokens": self.max_tokens, **self.sampling}


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is conducted; nothing of it is identity.

    Attributes:
        concurrency: requests in flight at most.
        chunk_rows: input rows that become one file.
        key: the servers' API key, if they want one.
        gpus: that the engines hold; 0 on a CPU.
        gpu_hour_dollars: the price of one for an hour, if it is known.
        show: called with the figures twice a second.
        log: takes a line about each dataset, and about what goes wrong.
    """

    concurrency: int
    chunk_rows: int
    key: str | None = None
    gpus: int = 0
    gpu_hour_dollars: float | None = None
    show: Callable[[Figures], None] = lambda figures: None
    log: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.chunk_rows < 1:
            raise ValueError(f"concurrency {self.concurrency} and chunk_rows {self.chunk_rows} must be at least 1")


class LocalExecutor(LocalPipelineExecutor):
    """DataTrove's local executor, in this process.

    One task reads all files, so that the window slides from one to the next. The original forks a manager
    process; that would inherit the datasets' locks and the engine's pipe, and outlive a driver that is killed.
    """

    def __init__(self, pipeline: list[PipelineStep]) -> None:
        logs = "memory://datatrove"  # nothing to be left behind by a killed driver
        super().__init__(pipeline=pipeline, tasks=1, workers=1, logging_dir=logs, skip_completed=False)

    def run(self) -> PipelineStats:
        logger.disable("datatrove")
        try:
            return self._run_for_rank(0)
        finally:
            logger.enable("datatrove")


def rephrase(
    *,
    survey: Survey,
    datasets: Mapping[str, Dataset],
    renderer: Callable[[], RendererLike],
    request: Request,
    engines: Callable[[], Sequence[EngineLike]],
    conduct: Conduct,
    keep_raw: bool = False,
) -> dict[str, dict[str, Any]]:
    """Makes the datasets that are not complete yet, all prompts of a document together.

    Args:
        survey: of the input.
        datasets: by prompt name, what is to be made; complete ones are left alone.
        renderer: makes what renders their prompts; called only if there is something to do.
        request: what every request says.
        engines: gives the engines; called once, and only if there is something to send.
        conduct: how the run is conducted.
        keep_raw: whether the completion before cleaning is kept, in a column of its own.

    Returns:
        The manifest of each dataset, by prompt name.

    Raises:
        RecipeChanged: a folder holds rows of another recipe.
        FolderBusy: another process is making one of them.
        EngineFailed: the engines cannot answer; what is done is kept and the next run goes on there.
        LedgerError, OSError: files are damaged, or cannot be written.
        NothingCompleted: all requests of a dataset failed.
    """
    manifests = {name: manifest for name, dataset in datasets.items() if (manifest := dataset.manifest())}
    left = {name: dataset for name, dataset in datasets.items() if name not in manifests}
    with contextlib.ExitStack() as claims:
        for name, dataset in list(left.items()):
            claims.enter_context(dataset.folder.claim())
            if manifest := dataset.manifest():  # it may have become so while its claim was held elsewhere
                manifests[name] = manifest
                del left[name]
        if left:
            for dataset in left.values():
                dataset.begin()
            with _ledgers(left, conduct.chunk_rows, keep_raw) as ledgers:
                figures = Figures(
                    total=survey.rows * len(ledgers), found=sum(ledger.found for ledger in ledgers.values())
                )
                running = _Engines(engines, figures)
                step = RephraseStep(
                    ledgers=ledgers,
                    renderer=renderer(),
                    request=request.body(),
                    seed=request.seed,
                    engines=running,
                    window=Window(
                        concurrency=conduct.concurrency,
                        max_tokens=request.max_tokens,
                        key=conduct.key,
                        keep_raw=keep_raw,
                        figures=figures,
                        show=conduct.show,
                        log=conduct.log,
                    ),
                    figures=figures,
                )
                LocalExecutor([InputReader(survey.files, survey.limit), step]).run()
                running.count()
                if step.rows.digest != survey.digest:
                    raise LedgerError(
                        f"{', '.join(survey.files)}: changed while they were read; put them back and run again"
                    )
                manifests |= _publish(left, ledgers, survey.rows, figures, conduct)
    return {name: manifests[name] for name in datasets}


@contextlib.contextmanager
def _ledgers(datasets: Mapping[str, Dataset], chunk_rows: int, keep_raw: bool) -> Iterator[dict[str, Ledger]]:
    ledgers: dict[str, Ledger] = {}
    try:
        for name, dataset in datasets.items():
            ledgers[name] = Ledger(dataset.folder, name, chunk_rows=chunk_rows, keep_raw=keep_raw)
        yield ledgers
    finally:
        for ledger in ledgers.values():
            ledger.release()


class _Engines:
    """The engines of a run, once they are needed, and what they count during it."""

    def __init__(self, start: Callable[[], Sequence[EngineLike]], figures: Figures) -> None:
        self._start = start
        self._figures = figures
        self._engines: Sequence[EngineLike] = ()
        self._before: Counter[str] = Counter()

    def __call__(self) -> Sequence[EngineLike]:
        began = time.monotonic()
        self._engines = self._start()
        self._figures.start_seconds = time.monotonic() - began
        self._before = counters(self._engines)
        return self._engines

    def count(self) -> None:
        """Notes what they counted; an engine that was started again counts from nothing."""
        after = counters(self._engines)
        before = self._before if not self._figures.restarts else {}
        self._figures.engine = {name: count - before.get(name, 0) for name, count in after.items()}


def _publish(
    datasets: Mapping[str, Dataset],
    ledgers: Mapping[str, Ledger],
    rows: int,
    figures: Figures,
    conduct: Conduct,
) -> dict[str, dict[str, Any]]:
    """Accounts for every row and writes the manifests, of all datasets that have anything."""
    bill = figures.bill(gpus=conduct.gpus, gpu_hour_dollars=conduct.gpu_hour_dollars)
    run = {"prompts": list(datasets), **bill}
    manifests: dict[str, dict[str, Any]] = {}
    nothing = []
    for name, dataset in datasets.items():
        ledger = ledgers[name]
        account = ledger.account(rows)
        if account.failed and not account.completed:
            reason = max(account.rejected, key=account.rejected.__getitem__)
            nothing.append(f"{name}: {account.failed} of {rows} rows failed: {reason[1]}")
            ledger.discard()
            continue
        manifests[name] = ledger.complete(dataset, account, {"run": run})
        conduct.log(
            f"{name}: {account.completed} completed, {account.skipped} skipped, {account.failed} failed; "
            f"{account.completion_tokens:,} output tokens"
        )
    if nothing:
        raise NothingCompleted("; ".join(nothing) + ". Nothing is kept of it: correct the cause and run again")
    return manifests
