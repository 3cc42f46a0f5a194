"""The inference step: a DataTrove step that sends each document through all prompts and fills the ledgers.

One task does one shard. Requests run in a window that slides over the documents, so that a slow one holds
up nothing but its own chunk; the prompts of a document follow one another, so that the engine prefills
the document once. Documents end here: the datasets are the ledgers' files.
"""

from __future__ import annotations

import asyncio
import functools
import time
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from finephrase_dagster.rephrase.clean import clean
from finephrase_dagster.rephrase.client import Client, Completion
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.ledger import Chunk, Completed, Ledger, Outcome, Rejected
from finephrase_dagster.rephrase.render import Renderer
from finephrase_dagster.rephrase.sampling import request_seed


@dataclass
class Figures:
    """What one run did: requests answered, tokens, and the seconds since its first request."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began: float = field(default=float("inf"))
    ended: float = field(default=float("-inf"))

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.began)

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    def count(self, answer: Completion | None) -> None:
        self.requests += 1
        self.ended = time.monotonic()
        if answer is None:
            self.failed += 1
        else:
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens


class RephraseStep(PipelineStep):
    """Sends documents to an engine and enters what became of them."""

    name = "Rephrase"
    type = "Inference"

    def __init__(
        self,
        *,
        shards: list[Path],
        ledgers: Mapping[str, Ledger],
        renderer: Renderer,
        sampling: Mapping[str, float | int],
        max_tokens: int,
        engine: Callable[[], EngineLike],
        concurrency: int,
        chunk_rows: int,
        log: Callable[[str], None],
    ) -> None:
        """Describes the step.

        Args:
            shards: the corpus's, in the order of the tasks' ranks.
            ledgers: by prompt name.
            renderer: for these prompts.
            sampling: temperature, top_p, top_k and the seed that the requests' own derive from.
            max_tokens: tokens a completion may have.
            engine: called once there is something to send.
            concurrency: requests in flight at most.
            chunk_rows: rows that become one file.
            log: takes a line for every finished chunk.
        """
        super().__init__()
        self.figures = Figures()
        self._shards = shards
        self.ledgers = ledgers
        self._renderer = renderer
        self._sampling = {name: value for name, value in sampling.items() if name != "seed"}
        self._seed = int(sampling["seed"])
        self._max_tokens = max_tokens
        self._engine = functools.cache(engine)
        self._concurrency = concurrency
        self._chunk_rows = chunk_rows
        self._log = log

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Does what is left of shard `rank`; reads nothing if that is nothing.

        Raises:
            EngineFailed: the engine cannot answer; finished chunks stay.
        """
        ids = [str(one) for one in pq.read_table(self._shards[rank], columns=["id"])["id"].to_pylist()]
        left = {name: _Left(ledger.open_chunks(rank, ids, self._chunk_rows)) for name, ledger in self.ledgers.items()}
        if any(of.chunks for of in left.values()):
            try:
                _in_own_loop(self._shard(data, left))
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None
        yield from ()

    async def _shard(self, documents: Iterable[Document], left: Mapping[str, _Left]) -> None:
        slots = asyncio.Semaphore(self._concurrency)
        client: Client | None = None
        async with AsyncExitStack() as clients, asyncio.TaskGroup() as tasks:
            for document in documents:
                row, skip = document.metadata["row"], document.metadata["skip"]
                for prompt, of in left.items():
                    chunk = of.chunk(row)
                    if chunk is None:
                        continue
                    if skip:
                        outcome = Rejected(id=document.id, status="skipped", reason=skip)
                        await self._enter(prompt, chunk, row, outcome)
                        continue
                    if client is None:
                        client = await clients.enter_async_context(Client(self._engine()))
                        self.figures.began = min(self.figures.began, time.monotonic())
                    request, truncated = self._request(prompt, document)
                    await slots.acquire()
                    task = tasks.create_task(self._row(client, prompt, chunk, document, request, truncated))
                    task.add_done_callback(lambda _: slots.release())

    def _request(self, prompt: str, document: Document) -> tuple[dict[str, Any], bool]:
        rendered = self._renderer.render(prompt, document.text)
        request = {
            "messages": rendered.messages,
            "max_tokens": self._max_tokens,
            **self._sampling,
            "seed": request_seed(self._seed, document.id, prompt),
        }
        return request, rendered.truncated

    async def _row(
        self, client: Client, prompt: str, chunk: Chunk, document: Document, request: dict[str, Any], truncated: bool
    ) -> None:
        answer = await client.complete(request)
        outcome: Outcome
        if isinstance(answer, Completion):
            self.figures.count(answer)
            outcome = Completed(
                id=document.id,
                text=clean(answer.text),
                finish_reason=answer.finish_reason,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                truncated=truncated,
                document_sha256=document.metadata["sha256"],
            )
        else:
            self.figures.count(None)
            outcome = Rejected(id=document.id, status="failed", reason=answer.reason)
        await self._enter(prompt, chunk, document.metadata["row"], outcome)

    async def _enter(self, prompt: str, chunk: Chunk, row: int, outcome: Outcome) -> None:
        chunk.add(row, outcome)
        self.stat_update(outcome.status if isinstance(outcome, Rejected) else "completed")
        if chunk.full:
            await asyncio.to_thread(self.ledgers[prompt].publish, chunk)
            self._log(
                f"{prompt}: rows {chunk.first} to {chunk.end} of shard {chunk.shard} are done; "
                f"{self.figures.tokens_per_second:,.0f} output tokens/s, {self.figures.failed} failed so far"
            )
            chunk.outcomes.clear()


class _Left:
    """The open chunks of one prompt in one shard, found by row."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks
        self._firsts = [chunk.first for chunk in chunks]

    def chunk(self, row: int) -> Chunk | None:
        """The open chunk of a row; None if the row is done."""
        place = bisect_right(self._firsts, row) - 1
        if place < 0 or row >= self.chunks[place].end:
            return None
        return self.chunks[place]


def _in_own_loop(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine to its end, also where the calling thread has a running event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
