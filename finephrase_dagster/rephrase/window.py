"""The window: so many requests in flight, sliding over the jobs of all files.

A slow request holds up nothing but the file of its own chunk. A row's outcome is in its ledger's journal
before its place in the window is given on, so that a killed run repeats no more than what was in flight.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import uvloop

from finephrase_dagster.rephrase.clean import clean
from finephrase_dagster.rephrase.client import Client
from finephrase_dagster.rephrase.completion import Completion, RequestResult, UnresolvedRow
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.ledger import Chunk, Ledger
from finephrase_dagster.rephrase.outcome import Completed, Outcome, Rejected
from finephrase_dagster.rephrase.statistics import RunStatistics

SYNC_SECONDS = 1.0
SHOW_SECONDS = 0.5
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class RowRequest(NamedTuple):
    """One request, and the place in the ledger that waits for what becomes of it."""

    prompt: str
    id: str
    sha256: str
    request: bytes
    document_cut: bool
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
        statistics: RunStatistics,
        show: Callable[[RunStatistics], None],
        log: Callable[[str], None],
    ) -> None:
        """Describes it.

        Args:
            concurrency: requests in flight at most.
            max_tokens: of a completion.
            key: the servers' API key, if they want one.
            keep_raw: whether the completion before cleaning is kept.
            statistics: what counts the run.
            show: called with them twice a second.
            log: takes lines on what goes wrong.
        """
        self._concurrency = concurrency
        self._max_tokens = max_tokens
        self._key = key
        self._keep_raw = keep_raw
        self._statistics = statistics
        self._show = show
        self._log = log
        self._doubts: list[tuple[RowRequest, UnresolvedRow]] = []
        self._answered: bytes | None = None

    def run(
        self,
        first: RowRequest,
        jobs: Iterator[RowRequest],
        engines: Sequence[EngineLike],
        ledgers: Mapping[str, Ledger],
        *,
        known_good: Callable[[], bytes | None],
    ) -> None:
        """Sends them all; `known_good` gives a request that an earlier run got answered, if there was one.

        Raises:
            EngineFailed: no engine can answer.
            OSError: a ledger cannot be written.
        """
        self._ledgers = ledgers
        self._first: RowRequest | None = first
        self._jobs = jobs
        self._known_good = known_good
        try:
            _in_own_loop(lambda: self._slide(engines))
        except BaseExceptionGroup as failures:
            raise _first_of(failures) from None

    async def _slide(self, engines: Sequence[EngineLike]) -> None:
        client = Client(
            engines, max_tokens=self._max_tokens, concurrency=self._concurrency, key=self._key, log=self._log
        )
        self._statistics.repeated = client.repeated
        async with client, asyncio.TaskGroup() as others:
            keeping = others.create_task(self._keep(client))
            publishing = others.create_task(self._publish())
            try:
                async with asyncio.TaskGroup() as senders:
                    for _ in range(self._concurrency):
                        senders.create_task(self._send(client))
                if self._doubts:
                    await self._settle(client, end=True)
            finally:
                keeping.cancel()
                publishing.cancel()
                self._statistics.restarts = client.restarts
                self._show(self._statistics)

    async def _send(self, client: Client) -> None:
        """One place of the window: a request after the other."""
        statistics = self._statistics
        while (job := self._next()) is not None:
            statistics.sent()
            try:
                verdict = await client.complete(job.request)
            finally:
                statistics.returned()
            if isinstance(verdict, UnresolvedRow):
                self._doubts.append((job, verdict))
                await self._settle(client, end=False)
                continue
            if isinstance(verdict, Completion):
                self._answered = job.request
                self._enter(job, self._completed(job, verdict), verdict)
            else:
                self._enter(job, Rejected(id=job.id, status="failed", reason=verdict.reason), verdict)
            if self._doubts:
                self._refuse_doubtful(client.proof)

    def _next(self) -> RowRequest | None:
        first, self._first = self._first, None
        return first or next(self._jobs, None)

    def _completed(self, job: RowRequest, completion: Completion) -> Completed:
        return Completed(
            id=job.id,
            text=clean(completion.text),
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            document_cut=job.document_cut,
            document_sha256=job.sha256,
            raw=completion.text if self._keep_raw else None,
        )

    def _enter(self, job: RowRequest, outcome: Outcome, verdict: RequestResult) -> None:
        self._ledgers[job.prompt].enter(job.chunk, job.place, outcome)
        self._statistics.count(verdict)

    async def _settle(self, client: Client, *, end: bool) -> None:
        doubts = [doubt for _, doubt in self._doubts]
        if await client.settle(doubts, known_good=self._answered or self._known_good(), end=end):
            self._refuse_doubtful(client.proof)

    def _refuse_doubtful(self, proof: float) -> None:
        """A request that was sent after theirs got an answer, so it is these rows' own fault."""
        refused = [(job, doubt) for job, doubt in self._doubts if doubt.since < proof]
        self._doubts = [(job, doubt) for job, doubt in self._doubts if doubt.since >= proof]
        for job, doubt in refused:
            self._enter(job, Rejected(id=job.id, status="failed", reason=doubt.reason), doubt)

    async def _publish(self) -> None:
        """Turns what is finished into files, in a thread of its own."""
        for ledger in self._ledgers.values():
            await asyncio.to_thread(ledger.publish_left_over)
        while True:
            await asyncio.sleep(SYNC_SECONDS / 2)
            for ledger in self._ledgers.values():
                await asyncio.to_thread(ledger.publish_full)
            self._statistics.chunks = sum(ledger.published for ledger in self._ledgers.values())

    async def _keep(self, client: Client) -> None:
        """Syncs the journals, and shows how far the run is."""
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            self._statistics.restarts = client.restarts
            self._show(self._statistics)
            for ledger in self._ledgers.values():
                await asyncio.to_thread(ledger.sync)


def _in_own_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a coroutine to its end, also where the calling thread has a running event loop (a notebook).

    An interrupt cancels it, and is then left to whoever handled it before: a handler that raises within the
    loop's own callbacks would be logged there, and lost.
    """

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if threading.current_thread() is not threading.main_thread():
            run()
            return
    else:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(run).result()
        return
    before = {sent: signal.getsignal(sent) for sent in INTERRUPTS}
    arrived: list[signal.Signals] = []

    async def interruptible() -> None:
        task = asyncio.current_task()
        assert task is not None

        def interrupt(sent: signal.Signals) -> None:
            arrived.append(sent)
            task.cancel()

        for sent in INTERRUPTS:
            if before[sent] not in (signal.SIG_IGN, None):
                asyncio.get_running_loop().add_signal_handler(sent, interrupt, sent)
        await work()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(interruptible())
    except asyncio.CancelledError:
        if not arrived:
            raise
    finally:
        for sent, handler in before.items():
            if handler is not None:
                signal.signal(sent, handler)
    if arrived:
        signal.raise_signal(arrived[0])


def _first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure in a group of groups."""
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
