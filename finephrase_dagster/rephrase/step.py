"""The inference step: a DataTrove step that sends documents through all prompts and fills the ledgers.

Documents end here: the datasets are the ledgers' files. Run as one task it makes the datasets; as one of
several it makes its part of each, which `tasks.gather` puts together. How requests are kept in flight is the
window's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from finephrase_dagster.artifacts.fingerprint import sha256_text
from finephrase_dagster.rephrase.client import Client
from finephrase_dagster.rephrase.connection import API_KEY
from finephrase_dagster.rephrase.counters import read_counters
from finephrase_dagster.rephrase.dataset import Dataset, LedgerError
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.ledger import Chunk, Ledger
from finephrase_dagster.rephrase.outcome import Rejected
from finephrase_dagster.rephrase.reader import InputRow, stamp
from finephrase_dagster.rephrase.render import Rendered, RendererLike
from finephrase_dagster.rephrase.sampling import request_seed
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.survey import RowSet, Survey
from finephrase_dagster.rephrase.tasks import task_of
from finephrase_dagster.rephrase.window import RowRequest, Window


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


class RephraseStep(PipelineStep):
    """Sends documents to engines and enters what became of them."""

    name = "Rephrase"
    type = "Inference"

    def __init__(
        self,
        *,
        datasets: Mapping[str, Dataset],
        renderer: Callable[[], RendererLike],
        request: Request,
        engines: Callable[[], Sequence[EngineLike]],
        settings: ExecutionSettings,
        survey: Survey,
        keep_raw: bool = False,
    ) -> None:
        """Describes the step; it can be pickled if `renderer` and `engines` can.

        Args:
            datasets: by prompt name, what is to be made; complete ones are left alone.
            renderer: makes what renders their prompts; called only if there is something to do.
            request: what every request says.
            engines: gives the engines; called once, and only if there is something to send.
            settings: how the run executes.
            survey: of the whole input.
            keep_raw: whether the completion before cleaning is kept, in a column of its own.
        """
        super().__init__()
        self._datasets = dict(datasets)
        self._renderer = renderer
        self._request = request
        self._engines = engines
        self._settings = settings
        self._survey = survey
        self._keep_raw = keep_raw

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Does what is left of the documents, and completes the datasets, or this task's parts of them.

        Raises:
            EngineFailed: the engine cannot answer; what is done is kept, as in all that follows.
            FolderBusy: another process is making one of the datasets.
            RecipeChanged: a folder holds rows of another recipe.
            LedgerError: files are damaged, or cannot be written.
        """
        datasets = {
            name: dataset if world_size == 1 else task_of(dataset, rank, world_size)
            for name, dataset in self._datasets.items()
        }
        with contextlib.ExitStack() as claims:
            for name, dataset in list(datasets.items()):
                if not dataset.manifest():
                    claims.enter_context(dataset.folder.claim())
                if dataset.manifest():  # it may have become so while its claim was held elsewhere
                    del datasets[name]
            if datasets:
                renderer = self._renderer()  # before anything is written: it may refuse the request
                ledgers = {name: claims.enter_context(self._ledger(name, of)) for name, of in datasets.items()}
                self._make(data, datasets, ledgers, renderer, part=world_size > 1)
        yield from ()

    @contextlib.contextmanager
    def _ledger(self, prompt: str, dataset: Dataset) -> Iterator[Ledger]:
        dataset.begin()
        ledger = Ledger(dataset.folder, prompt, chunk_rows=self._settings.chunk_rows, keep_raw=self._keep_raw)
        try:
            yield ledger
        finally:
            ledger.release()

    def _make(
        self,
        documents: Iterable[Document],
        datasets: Mapping[str, Dataset],
        ledgers: Mapping[str, Ledger],
        renderer: RendererLike,
        *,
        part: bool,
    ) -> None:
        found = sum(ledger.found for ledger in ledgers.values())
        statistics = RunStatistics(total=self._survey.rows * len(ledgers) if not part else 0, done_before=found)
        self._settings.watch(statistics)
        rows = _Rows(summed=part)
        source = _Jobs(documents, ledgers, renderer, self._request, statistics, rows)
        jobs = iter(source)
        first = next(jobs, None)
        if first is not None:
            # Before there is an event loop, so that an interrupt ends a long start at once.
            began = time.monotonic()
            engines = self._engines()
            statistics.start_seconds = time.monotonic() - began
            before = read_counters(engines)
            client = Client(
                engines,
                self._settings,
                statistics,
                max_tokens=self._request.max_tokens,
                key=os.environ.get(API_KEY) or None,
            )
            window = Window(client, ledgers, self._settings, statistics, keep_raw=self._keep_raw)
            window.run(itertools.chain([first], jobs), earlier_request=source.known_good)
            statistics.record_engine_counters(before, read_counters(engines))
        for ledger in ledgers.values():
            ledger.publish_left_over()
            ledger.publish_full()
        statistics.chunks = sum(ledger.published for ledger in ledgers.values())
        stamps = tuple(stamp(file) for file in self._survey.files)
        if stamps != self._survey.stamps or (not part and rows.count != self._survey.rows):
            raise LedgerError(
                f"{', '.join(self._survey.files)}: changed while they were read; put them back and run again"
            )
        self._complete(datasets, ledgers, rows, statistics)

    def _complete(
        self,
        datasets: Mapping[str, Dataset],
        ledgers: Mapping[str, Ledger],
        rows: _Rows,
        statistics: RunStatistics,
    ) -> None:
        """Accounts for every row and writes the manifests."""
        cost = statistics.cost(gpus=self._settings.gpus, gpu_hour_dollars=self._settings.gpu_hour_dollars)
        facts: dict[str, Any] = {"run": {"prompts": list(datasets), **cost}}
        if rows.identity is not None:
            facts["row_sum"] = f"{rows.identity.sum % 2**256:x}"
        accounts = []
        for name, dataset in datasets.items():
            account = ledgers[name].account(rows.count)
            ledgers[name].complete(dataset, account, facts)
            accounts.append(
                f"{name}: {account.completed:,} completed, {account.skipped:,} skipped, {account.failed:,} failed; "
                f"{account.completion_tokens:,} output tokens"
            )
            if account.failed and not account.completed:
                reason = max(account.rejected, key=account.rejected.__getitem__)[1]
                self._settings.log(
                    f"{name}: not one row is completed, most often: {reason}. Correct the cause, delete "
                    f"{dataset.folder} and run again"
                )
        self._settings.log("\n".join(accounts))  # at once: where lines become events of a store, each costs a commit


class _Rows:
    """The documents that came by: how many, and for a part which."""

    def __init__(self, *, summed: bool) -> None:
        self.count = 0
        self.identity = RowSet() if summed else None

    def add(self, document: Document) -> None:
        self.count += 1
        if self.identity is not None:
            self.identity.add(InputRow(document.id, document.text, document.metadata["skip"]))


class _Jobs:
    """What is to be sent, in order; rows that are skipped are entered as they come by."""

    def __init__(
        self,
        documents: Iterable[Document],
        ledgers: Mapping[str, Ledger],
        renderer: RendererLike,
        request: Request,
        statistics: RunStatistics,
        rows: _Rows,
    ) -> None:
        self._documents = documents
        self._ledgers = ledgers
        self._renderer = renderer
        self._request = request.body()
        self._seed = request.seed
        self._statistics = statistics
        self._rows = rows
        self._done: tuple[str, Document] | None = None

    def known_good(self) -> bytes | None:
        """A request that an earlier run got a completion for, if its row came by."""
        return self._body(*self._done) if self._done else None

    def __iter__(self) -> Iterator[RowRequest]:
        shard = 0
        for document in self._documents:
            metadata = document.metadata
            self._rows.add(document)
            if metadata["shard"] != shard:
                self._close(shard)
                shard = metadata["shard"]
            for prompt, ledger in self._ledgers.items():
                if ledger.found and ledger.is_done(document.id):
                    if document.id == ledger.example:
                        self._done = prompt, document
                    continue
                chunk, place = ledger.assign(shard)
                if metadata["skip"]:
                    self._statistics.skipped += 1
                    ledger.enter(chunk, place, Rejected(id=document.id, status="skipped", reason=metadata["skip"]))
                else:
                    yield self._job(prompt, document, chunk, place)
        self._close(shard)

    def _close(self, shard: int) -> None:
        for ledger in self._ledgers.values():
            ledger.close(shard)

    def _job(self, prompt: str, document: Document, chunk: Chunk, place: int) -> RowRequest:
        rendered = self._renderer.render(prompt, document.text)
        return RowRequest(
            prompt=prompt,
            id=document.id,
            sha256=sha256_text(document.text),
            request=self._body(prompt, document, rendered),
            document_cut=rendered.document_cut,
            chunk=chunk,
            place=place,
        )

    def _body(self, prompt: str, document: Document, rendered: Rendered | None = None) -> bytes:
        rendered = rendered or self._renderer.render(prompt, document.text)
        request = {"messages": rendered.messages, **self._request}
        if self._seed is not None:
            request["seed"] = request_seed(self._seed, document.id, prompt)
        return orjson.dumps(request)
