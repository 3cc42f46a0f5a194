"""The window: so many requests in flight, sliding over the jobs of all files.

A slow request holds up nothing but the file of its own chunk. A row's outcome is in its ledger's journal
before its place in the window is given on, so that a killed run repeats no more than what was in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import uvloop

from finephrase_dagster.rephrase.clean import clean
from finephrase_dagster.rephrase.client import Client
from finephrase_dagster.rephrase.completion import Completion, Doubt
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.figures import Figures
from finephrase_dagster.rephrase.ledger import Chunk, Ledger
from finephrase_dagster.rephrase.outcome import Completed, Outcome, Rejected

SYNC_SECONDS = 1.0
SHOW_SECONDS = 0.5


class Job(NamedTuple):
    """One request, and the place in the ledger that waits for what becomes of it."""

    prompt: str
    id: str
    sha256: str
    request: bytes
    truncated: bool
    chunk: Chunk
    place: int


class Window:
    """Sends jobs and enters their outcomes."""

    def __init__(
        self,
        *,
        concurrency: int,
        max_tokens: int,
        key: str | None,
        keep_raw: bool,
        figures: Figures,
        show: Callable[[Figures], None],
        log: Callable[[str], None],
    ) -> None:
        """Describes it.

        Args:
            concurrency: requests in flight at most.
            max_tokens: of a completion.
            key: the servers' API key, if they want one.
            keep_raw: whether the completion before cleaning is kept.
            figures: what counts the run.
            show: called with them twice a second.
            log: takes lines on what goes wrong.
        """
        self._concurrency = concurrency
        self._max_tokens = max_tokens
        self._key = key
        self._keep_raw = keep_raw
        self._figures = figures
        self._show = show
        self._log = log
        self._doubts: list[tuple[Job, Doubt]] = []

    def run(
        self, first: Job, jobs: Iterator[Job], engines: Sequence[EngineLike], ledgers: Mapping[str, Ledger]
    ) -> None:
        """Sends them all.

        Raises:
            EngineFailed: no engine can answer.
            OSError: a ledger cannot be written.
        """
        self._ledgers = ledgers
        self._first: Job | None = first
        self._jobs = jobs
        try:
            _in_own_loop(lambda: self._slide(engines))
        except BaseExceptionGroup as failures:
            raise _first_of(failures) from None

    async def _slide(self, engines: Sequence[EngineLike]) -> None:
        client = Client(
            engines, max_tokens=self._max_tokens, concurrency=self._concurrency, key=self._key, log=self._log
        )
        async with client, asyncio.TaskGroup() as others:
            keeping = others.create_task(self._keep(client))
            publishing = others.create_task(self._publish())
            try:
                async with asyncio.TaskGroup() as senders:
                    for _ in range(self._concurrency):
                        senders.create_task(self._send(client))
                if self._doubts:
                    await client.last_word([doubt for _, doubt in self._doubts])
                    self._refuse_doubtful()
            finally:
                keeping.cancel()
                publishing.cancel()
                self._figures.repeated, self._figures.restarts = client.repeated, client.restarts
                self._show(self._figures)

    async def _send(self, client: Client) -> None:
        """One place of the window: a request after the other."""
        figures = self._figures
        while (job := self._next()) is not None:
            figures.sent()
            try:
                verdict = await client.complete(job.request)
            finally:
                figures.returned()
            if isinstance(verdict, Doubt):
                self._doubts.append((job, verdict))
                client.too_many([doubt for _, doubt in self._doubts])
                continue
            if isinstance(verdict, Completion):
                self._enter(job, self._completed(job, verdict), verdict)
            else:
                self._enter(job, Rejected(id=job.id, status="failed", reason=verdict.reason), None)
            if self._doubts and client.last_answer > self._doubts[0][1].since:
                self._refuse_doubtful()

    def _next(self) -> Job | None:
        first, self._first = self._first, None
        return first or next(self._jobs, None)

    def _completed(self, job: Job, completion: Completion) -> Completed:
        return Completed(
            id=job.id,
            text=clean(completion.text),
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            truncated=job.truncated,
            document_sha256=job.sha256,
            raw=completion.text if self._keep_raw else None,
        )

    def _enter(self, job: Job, outcome: Outcome, completion: Completion | None) -> None:
        self._ledgers[job.prompt].enter(job.chunk, job.place, outcome)
        self._figures.count(completion)

    def _refuse_doubtful(self) -> None:
        """Others got an answer meanwhile, so it is these rows' own fault."""
        doubts, self._doubts = self._doubts, []
        for job, doubt in doubts:
            self._enter(job, Rejected(id=job.id, status="failed", reason=doubt.reason), None)

    async def _publish(self) -> None:
        """Turns what is finished into files, in a thread of its own."""
        for ledger in self._ledgers.values():
            await asyncio.to_thread(ledger.publish_left_over)
        while True:
            await asyncio.sleep(SYNC_SECONDS / 2)
            for ledger in self._ledgers.values():
                await asyncio.to_thread(ledger.publish_full)

    async def _keep(self, client: Client) -> None:
        """Syncs the journals, and shows how far the run is."""
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            self._figures.repeated, self._figures.restarts = client.repeated, client.restarts
            self._show(self._figures)
            for ledger in self._ledgers.values():
                await asyncio.to_thread(ledger.sync)


def _in_own_loop(work: Callable[[], Any]) -> None:
    """Runs a coroutine to its end, also where the calling thread has a running event loop (a notebook)."""

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        run()
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(run).result()


def _first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure in a group of groups."""
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
