"""The inference step: a DataTrove step that sends documents through all prompts and writes the datasets.

Run as one task, it writes complete datasets. Run as one of several tasks, it writes its part of each dataset;
`tasks.merge_tasks` then merges the parts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from finephrase_dagster.rephrase.account import Account, PromptStatistics, read_expected
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
from finephrase_dagster.rephrase.ledger import Ledger
from finephrase_dagster.rephrase.progress import goodput_text
from finephrase_dagster.rephrase.reader import InputRow, InputRows
from finephrase_dagster.rephrase.render import RendererLike
from finephrase_dagster.rephrase.requests import RequestSource
from finephrase_dagster.rephrase.rollouts import RolloutRule
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.survey import RowSet, Survey
from finephrase_dagster.rephrase.tasks import task_dataset
from finephrase_dagster.rephrase.window import Window

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
            survey: the survey of the complete input.
            renderer: returns the renderer of the prompts; called only if a dataset is incomplete.
            model: the model's name at the engines.
            engines: opens the engines; called at most once, and only if there is something to send.
            settings: how the run executes.
        """
        super().__init__()
        self._datasets = dict(datasets)
        self._survey = survey
        self._renderer = renderer
        self._model = model
        self._engines = engines
        self._settings = settings

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Rephrase the documents that are not done yet, and complete the datasets, or this task's parts of them.

        Raises:
            EngineFailed: the engine cannot answer. Finished rows are kept, also after the errors below.
            FolderBusy: another process writes one of the datasets.
            RecipeChanged: a folder holds rows of another recipe.
            LedgerError: files are damaged, or cannot be written.
            NothingCompleted: rows failed, and no row has a completion.
        """
        is_part = world_size > 1
        datasets = {
            name: task_dataset(dataset, rank, world_size) if is_part else dataset
            for name, dataset in self._datasets.items()
        }
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
                if isinstance(data, InputRows) and not is_part:  # a task hashes all rows that it reads
                    data.next_needed = partial(_next_needed, list(ledgers.values()))
                rows = _Rows(data, hashed=is_part)
                statistics, accounts = self._send(rows, datasets, ledgers, renderer)
                self._check_input(rows)
                self._complete(datasets, ledgers, rows, statistics, accounts)
        yield from ()

    @contextlib.contextmanager
    def _ledger(self, prompt: str, dataset: Dataset) -> Iterator[Ledger]:
        dataset.begin(self._settings.log)
        self._survey.save(dataset.folder)
        ledger = Ledger(
            dataset.folder,
            prompt,
            chunk_rows=self._settings.chunk_rows,
            keep_raw=dataset.keeps_raw,
            has_rollouts=dataset.has_rollouts,
            layout=self._survey.layout,
        )
        try:
            yield ledger
        finally:
            ledger.release()

    def _send(
        self, rows: _Rows, datasets: Mapping[str, Dataset], ledgers: Mapping[str, Ledger], renderer: RendererLike
    ) -> tuple[RunStatistics, Mapping[str, Account]]:
        """Send what is not done yet, and publish all chunks."""
        is_part, settings = rows.hash is not None, self._settings
        statistics = RunStatistics(
            gpus=settings.gpus, gpu_hour_dollars=settings.gpu_hour_dollars, stated=settings.stated
        )
        for name, ledger in ledgers.items():
            statistics.prompts[name] = PromptStatistics(
                total=0 if is_part else self._survey.rows,
                done_before=ledger.done_before,
                tokens_before=ledger.tokens_before,
            )
        self._settings.watch(statistics)
        recipes = {name: dataset.recipe for name, dataset in datasets.items()}
        source = RequestSource(
            rows, ledgers=ledgers, recipes=recipes, renderer=renderer, model=self._model, statistics=statistics
        )
        requests = iter(source)
        engines: Sequence[EngineLike] = ()
        output = None if is_part else settings.output
        with Books(datasets, statistics, output=output, read_counters=lambda: read_counters(engines)) as books:
            if (first := next(requests, None)) is not None:
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
        return statistics, books.accounts

    def _window(
        self,
        engines: Sequence[EngineLike],
        datasets: Mapping[str, Dataset],
        ledgers: Mapping[str, Ledger],
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

    def _check_input(self, rows: _Rows) -> None:
        """Raise LedgerError if a file changed since the survey."""
        if not self._survey.is_current() or (rows.hash is None and rows.count != self._survey.rows):
            files = ", ".join(self._survey.files)
            raise LedgerError(f"{files}: changed during the run. Restore the files and run the command again.")

    def _complete(
        self,
        datasets: Mapping[str, Dataset],
        ledgers: Mapping[str, Ledger],
        rows: _Rows,
        statistics: RunStatistics,
        accounts: Mapping[str, Account],
    ) -> None:
        """Write the manifests."""
        facts: dict[str, Any] = {"run": {"prompts": list(datasets), **statistics.cost()}}
        if rows.hash is not None:
            facts["row_sum"] = f"{rows.hash.sum % 2**256:x}"
        counts = {name: ledgers[name].count_rows(rows.count) for name in datasets}
        if rows.hash is None and is_without_completions(counts.values()):  # of tasks, the merge decides
            for ledger in ledgers.values():
                ledger.forget_rejected()
            raise NothingCompleted.of(counts.values())
        lines = []
        for name, dataset in datasets.items():
            count = counts[name]
            goodput = accounts[name].facts(read_expected(dataset.folder))
            ledgers[name].complete(dataset, count, {**facts, "goodput": goodput})
            lines.append(
                f"{name}: {count.completed:,} completed, {count.skipped:,} skipped, {count.failed:,} failed; "
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


class _Rows:
    """Iterates over documents, and counts them; for a task's part also hashes them."""

    def __init__(self, documents: Iterable[Document], *, hashed: bool) -> None:
        self._documents = documents
        self._read = 0
        self.hash = RowSet() if hashed else None

    @property
    def count(self) -> int:
        """The number of rows, including those that were passed because they are done."""
        return self._read + (self._documents.passed if isinstance(self._documents, InputRows) else 0)

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            self._read += 1
            if self.hash is not None:
                self.hash.add(InputRow(document.id, document.text, document.metadata["skip"]))
            yield document
