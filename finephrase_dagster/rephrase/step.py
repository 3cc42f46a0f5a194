"""The inference step: a DataTrove step that sends documents through all prompts and writes the datasets."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from finephrase_dagster.rephrase.account import SAVE_SECONDS, PromptStatistics, read_expected
from finephrase_dagster.rephrase.bookkeeping import Books
from finephrase_dagster.rephrase.client import Client
from finephrase_dagster.rephrase.connection import API_KEY
from finephrase_dagster.rephrase.counters import read_counters
from finephrase_dagster.rephrase.dataset import (
    Dataset,
    LedgerError,
    NothingCompleted,
    is_without_completions,
    no_completion,
)
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.journals import JournalWriter
from finephrase_dagster.rephrase.ledger import Ledger, begin_ledger
from finephrase_dagster.rephrase.progress import goodput_text
from finephrase_dagster.rephrase.reader import InputRows
from finephrase_dagster.rephrase.render import RendererLike
from finephrase_dagster.rephrase.requests import RequestSource
from finephrase_dagster.rephrase.rollouts import RolloutRule
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics, total_cost
from finephrase_dagster.rephrase.survey import Survey
from finephrase_dagster.rephrase.takeover import take_over
from finephrase_dagster.rephrase.window import PAUSE_SECONDS, RowRequest, Window

Engines = contextlib.AbstractContextManager[Sequence[EngineLike]]


class RephraseStep(PipelineStep):
    """Sends documents to engines and records the results."""

    name = "Rephrase"
    type = "Inference"

    def __init__(
        self,
        *,
        datasets: Mapping[str, Dataset],
        survey: Survey,
        renderer: Callable[[], RendererLike],
        model: str,
        engines: Callable[[], Engines],
        settings: ExecutionSettings,
    ) -> None:
        """Describe the step. It can be pickled if `renderer` and `engines` can.

        Args:
            datasets: what to write, by prompt name; complete datasets are left alone.
            renderer: returns the renderer of the prompts; called only if a dataset is incomplete.
            engines: opens the engines; called at most once, and only if there is something to send.
        """
        super().__init__()
        self._datasets = dict(datasets)
        self._survey = survey
        self._renderer = renderer
        self._model = model
        self._engines = engines
        self._settings = settings

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Rephrase the documents that are not done yet, and complete the datasets.

        Raises:
            EngineFailed: the engine cannot answer. Finished rows are kept, also after the errors below.
            FolderBusy: another process writes one of the datasets.
            RecipeChanged: a folder holds rows of another recipe.
            LedgerError: files are damaged, or cannot be written.
            NothingCompleted: rows failed, and no row has a completion.
        """
        datasets = dict(self._datasets)
        with contextlib.ExitStack() as claims:
            for name, dataset in list(datasets.items()):
                if not dataset.manifest():
                    claims.enter_context(dataset.folder.claim())
                if dataset.manifest():  # another process may have completed it before this one got its claim
                    del datasets[name]
            if datasets:
                renderer = self._renderer()  # before anything is written: it may refuse the prompts
                ledgers = {
                    name: claims.enter_context(self._ledger(name, dataset)) for name, dataset in datasets.items()
                }
                if isinstance(data, InputRows):
                    data.next_needed = partial(_next_needed, list(ledgers.values()))
                rows = _Rows(data)
                statistics = self._statistics(ledgers, total=self._survey.rows)
                books = self._send(rows, datasets, ledgers, renderer, statistics)
                self._check_input(rows.count)
                self._complete(datasets, ledgers, rows.count, statistics, books)
        yield from ()

    @contextlib.contextmanager
    def _ledger(self, prompt: str, dataset: Dataset) -> Iterator[Ledger]:
        log = self._settings.log
        begin = partial(begin_ledger, dataset, self._survey, prompt=prompt, chunk_rows=self._settings.chunk_rows)
        ledger = begin(log=log)
        try:
            if take_over(ledger, dataset, self._survey, log):
                ledger = begin()
            yield ledger
        finally:
            ledger.release()

    def _statistics(self, ledgers: Mapping[str, JournalWriter], *, total: int) -> RunStatistics:
        """Return the statistics of a run, before it has begun; `total` is 0 if the number of rows is not known."""
        settings = self._settings
        statistics = RunStatistics(
            gpus=settings.gpus, gpu_hour_dollars=settings.gpu_hour_dollars, stated=settings.stated
        )
        for name, ledger in ledgers.items():
            statistics.prompts[name] = PromptStatistics(
                total=total, done_before=ledger.done_before, tokens_before=ledger.tokens_before
            )
        settings.watch(statistics)
        return statistics

    def _send(
        self,
        rows: Iterable[Document | None],
        datasets: Mapping[str, Dataset],
        ledgers: Mapping[str, JournalWriter],
        renderer: RendererLike,
        statistics: RunStatistics,
        worker: str | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> Books:
        """Send what is not done yet, publish all chunks, and return the books.

        Args:
            worker, save_seconds: see `Books`.
        """
        recipes = {name: dataset.recipe for name, dataset in datasets.items()}
        source = RequestSource(
            rows, ledgers=ledgers, recipes=recipes, renderer=renderer, model=self._model, statistics=statistics
        )
        requests = iter(source)
        engines: Sequence[EngineLike] = ()
        output = None if worker else self._settings.output
        counters = lambda: read_counters(engines)  # noqa: E731 - of the engines that run when it is called
        with Books(
            datasets, statistics, output=output, read_counters=counters, worker=worker, seconds=save_seconds
        ) as books:
            if (first := _first(requests)) is not None:
                # Before there is an event loop, so that an interrupt ends a long start at once.
                with statistics.engines_open(self._engines()) as engines:
                    books.count()
                    window = self._window(engines, datasets, ledgers, statistics, opening=renderer.opening)
                    window.run(itertools.chain([first], requests), earlier_request=source.earlier_request)
                    books.count()
                engines = ()
            for ledger in ledgers.values():
                ledger.publish_left_over()
                ledger.publish_full()
        statistics.chunks = sum(ledger.published for ledger in ledgers.values())
        return books

    def _window(
        self,
        engines: Sequence[EngineLike],
        datasets: Mapping[str, Dataset],
        ledgers: Mapping[str, JournalWriter],
        statistics: RunStatistics,
        *,
        opening: str,
    ) -> Window:
        dataset = next(iter(datasets.values()))
        client = Client(
            engines,
            self._settings,
            statistics,
            max_tokens=dataset.recipe["max_tokens"],
            key=None if any(engine.restartable for engine in engines) else os.environ.get(API_KEY) or None,
        )
        rules = {name: RolloutRule(one.recipe) for name, one in datasets.items() if one.has_rollouts}
        raw = dataset.keeps_raw
        return Window(client, ledgers, self._settings, statistics, rules, keep_raw=raw, opening=opening)

    def _check_input(self, rows: int | None = None) -> None:
        """Raise LedgerError if a file changed since the survey."""
        if not self._survey.is_current() or rows not in (None, self._survey.rows):
            raise changed_input(self._survey)

    def _complete(
        self,
        datasets: Mapping[str, Dataset],
        ledgers: Mapping[str, Ledger],
        rows: int,
        statistics: RunStatistics,
        books: Books,
    ) -> None:
        """Write the manifests."""
        counts = {name: ledgers[name].count_rows(rows) for name in datasets}
        if is_without_completions(counts.values()):
            for ledger in ledgers.values():
                ledger.forget_rejected()
            raise NothingCompleted.of(counts.values())
        lines = []
        for name, dataset in datasets.items():
            count = counts[name]
            reused = f" ({count.reused_rows:,} of them reused)" if count.reused else ""
            goodput = books.accounts[name].facts(read_expected(dataset.folder))
            cost = total_cost(statistics.cost(), books.spent[name].workers.values())
            run = {"prompts": list(datasets), "model": self._settings.model or self._model, **cost}
            ledgers[name].complete(dataset, count, {"run": run, "goodput": goodput})
            lines.append(
                f"{name}: {count.completed:,} completed{reused}, {count.skipped:,} skipped, {count.failed:,} failed; "
                f"{count.completion_tokens:,} completion tokens"
            )
            lines.append(goodput_text(name, goodput))
            if count.failed and not count.completed:
                remedy = "Remove the cause, then run the command again with --retry-failed."
                self._settings.log(f"{name}: {no_completion([count])} {remedy}")
        self._settings.report("\n".join(lines))  # one call: where lines become events of a store, each costs a commit


def _next_needed(ledgers: Sequence[Ledger], shard: int, row: int) -> int:
    """Return the first row of an input file, from a given one on, that a ledger needs."""
    return min(ledger.next_needed(shard, row) for ledger in ledgers)


def _first(requests: Iterator[RowRequest | None]) -> RowRequest | None:
    """Return the first request, and wait for it if there is none yet; None if there will be none."""
    for request in requests:
        if request is not None:
            return request
        time.sleep(PAUSE_SECONDS)
    return None


def changed_input(survey: Survey) -> LedgerError:
    """Return the error for input that is not as it was surveyed."""
    return LedgerError(
        f"{', '.join(survey.files)}: changed during the run. Restore the files and run the command again."
    )


class _Rows:
    """Iterates over documents, and counts them, including those that are passed because they are done."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = documents
        self._read = 0

    @property
    def count(self) -> int:
        return self._read + (self._documents.passed if isinstance(self._documents, InputRows) else 0)

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            self._read += 1
            yield document
