"""The window: a fixed number of requests in flight, sliding over the rows of all files.

A slow request delays only the output file that its row belongs to. The outcome of a row is in its ledger's journal
before the next request is sent in its place, so a killed run repeats no more than what was in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from operator import methodcaller
from typing import NamedTuple

from finephrase_dagster.rephrase.backpressure import BackPressure
from finephrase_dagster.rephrase.clean import clean, is_unfinished_thought
from finephrase_dagster.rephrase.client import Client, UnresolvedRow
from finephrase_dagster.rephrase.completion import NO_TEXT, ONLY_THOUGHT, Completion, FailedRow, readable
from finephrase_dagster.rephrase.journals import Chunk, JournalWriter
from finephrase_dagster.rephrase.loop import run_in_own_loop
from finephrase_dagster.rephrase.outcome import Completed, Outcome, Rejected, Rollout
from finephrase_dagster.rephrase.rollouts import BY_CHANCE, RolloutRule
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics

PUBLISH_SECONDS = 0.5
"""Time between two looks at finished chunks."""

PAUSE_SECONDS = 0.1
"""Time between two looks whether there is a row to send."""

SYNC_SECONDS = 0.5
"""Time between two syncs of the journals: what the machine's death may cost."""


class RowRequest(NamedTuple):
    """The request of one row and prompt, the ledger's place for its outcome, and the rollouts drawn before."""

    prompt: str
    id: str
    sha256: str
    request: bytes
    document_cut: bool
    chunk: Chunk
    position: int
    document: str
    drawn: Mapping[int, Rollout]
    seconds: float = 0.0  # engine-seconds of the rollouts that this run drew before
    fit: Fit | None = None


CountTokens = Callable[[bytes], Awaitable[int]]
Fit = Callable[[CountTokens], Awaitable[RowRequest]]
"""Returns the request with as much of its document as fits, once an endpoint has counted its tokens."""


class Window:
    """Sends the requests of rows and records their outcomes."""

    def __init__(
        self,
        client: Client,
        ledgers: Mapping[str, JournalWriter],
        settings: ExecutionSettings,
        statistics: RunStatistics,
        rules: Mapping[str, RolloutRule],
        *,
        keep_raw: bool,
        opening: str = "",
    ) -> None:
        """Describe a window; nothing is sent yet.

        Args:
            rules: by prompt, where rows may be drawn several times.
            keep_raw: whether to record completions as they were before cleaning, too.
            opening: the beginning of a thought that the chat template writes in the model's place.
        """
        self._opening = opening
        self._client = client
        self._ledgers = ledgers
        self._settings = settings
        self._statistics = statistics
        self._rules = rules
        self._redrawn: deque[RowRequest] = deque()
        self._keep_raw = keep_raw
        self._unresolved: deque[tuple[RowRequest, UnresolvedRow]] = deque()
        self._again = 0  # how many of them are tried again in any case
        self._resolving = asyncio.Lock()

    def run(self, rows: Iterator[RowRequest | None], *, earlier_request: Callable[[], bytes | None]) -> None:
        """Send all requests.

        Args:
            rows: yields None while there is no row to send, but may be later.
            earlier_request: returns a request that an earlier run completed, if there is one.

        Raises:
            EngineFailed: the endpoints can complete no request.
            OSError: a ledger cannot be written.
        """
        self._rows = rows
        self._earlier_request = earlier_request
        run_in_own_loop(self._run)

    async def _run(self) -> None:
        self._folders = BackPressure(self._settings.log)
        async with self._client, asyncio.TaskGroup() as background:
            syncing = background.create_task(self._sync())
            publishing = background.create_task(self._publish())
            try:
                while True:
                    async with asyncio.TaskGroup() as senders:
                        for _ in range(self._settings.concurrency):
                            senders.create_task(self._send())
                    if not self._unresolved:
                        break
                    await self._resolve(at_most=0)
                await self._write_all(methodcaller("sync"))
            finally:
                syncing.cancel()
                publishing.cancel()
                self._settings.show(self._statistics)

    async def _send(self) -> None:
        """Send one request after the other: one of the window's places."""
        statistics = self._statistics
        while True:
            await self._folders.wait()
            if (next_one := self._next()) is None:
                return
            row, unresolved = next_one
            if row is None:
                await self._pause()
                continue
            statistics.record_sent(again=unresolved is not None)
            attempts = unresolved or UnresolvedRow(began=time.monotonic())
            try:
                if row.fit is not None:
                    row = await row.fit(self._client.count_tokens)
                result = await self._client.complete(self._request(row), attempts)
            finally:
                statistics.record_returned(attempts.began)
            if isinstance(result, UnresolvedRow):
                self._unresolved.append((row, result))
                await self._resolve(at_most=self._client.max_unresolved - 1)
            else:
                self._record(row, result, attempts)

    def _request(self, row: RowRequest) -> bytes:
        rule = self._rules.get(row.prompt)
        return rule.request(row.request, row.id, rule.next(row.drawn) or 0) if rule else row.request

    async def _pause(self) -> None:
        """Wait because there is no next row at present. Unresolved rows must not wait for it."""
        if self._unresolved and not self._statistics.in_flight:
            await self._resolve(at_most=0)
        else:
            await asyncio.sleep(PAUSE_SECONDS)

    def _next(self) -> tuple[RowRequest | None, UnresolvedRow | None] | None:
        """Return a row that is drawn again, an unresolved row after a success since its last attempt, or the next.

        The row is None if there is none at present, but may be later.
        """
        if self._redrawn:
            return self._redrawn.popleft(), None
        if self._unresolved and (self._again or self._unresolved[0][1].sent < self._client.last_success):
            self._again = max(0, self._again - 1)
            return self._unresolved.popleft()
        for row in self._rows:
            return row, None
        return None

    async def _resolve(self, *, at_most: int) -> None:
        """If there are more unresolved rows than this, wait until they can be tried again."""
        async with self._resolving:
            if len(self._unresolved) > at_most and not self._again:
                await self._client.prove(self._unresolved[-1][1], earlier_request=self._earlier_request)
                self._again = len(self._unresolved)

    def _record(self, row: RowRequest, result: Completion | FailedRow, attempts: UnresolvedRow) -> None:
        """Record a row's outcome, or a rollout after which the row is drawn again."""
        seconds = attempts.seconds
        if isinstance(result, Completion):
            self._statistics.record_tokens(result)
            seconds -= attempts.lost
        outcome, failure = self._outcome(row, result)
        ledger = self._ledgers[row.prompt]
        if rule := self._rules.get(row.prompt):
            number, rollout = rule.next(row.drawn) or 0, rule.judge(outcome, row.document, failure)
            drawn = {**row.drawn, number: rollout}
            if rule.next(drawn) is not None and (failure is None or failure.kind in BY_CHANCE):
                ledger.record_rollout(row.chunk, row.position, number, rollout)
                self._statistics.prompts[row.prompt].discarding += seconds
                self._redrawn.append(row._replace(drawn=drawn, seconds=row.seconds + seconds))
                return
            outcome = rule.keep(drawn)
        ledger.record(row.chunk, row.position, outcome)
        self._statistics.record_outcome(row.prompt, outcome, failure, seconds=seconds, earlier=row.seconds)
        if isinstance(outcome, Completed):
            self._statistics.record_sample(row.id, row.prompt, outcome.text, prompts=len(self._ledgers))

    def _outcome(self, row: RowRequest, result: Completion | FailedRow) -> tuple[Outcome, FailedRow | None]:
        """Return a request's outcome, and its failure if it has no usable completion."""
        if isinstance(result, Completion):
            text = result.text
            if self._opening and (result.finish_reason == "length" or not is_unfinished_thought(self._opening + text)):
                text = self._opening + text
            text, rules = clean(text)
            if text and not (result.finish_reason == "length" and is_unfinished_thought(text)):
                completed = Completed(
                    id=row.id,
                    text=text,
                    finish_reason=result.finish_reason,
                    prompt_tokens=result.prompt_tokens,
                    completion_tokens=result.completion_tokens,
                    document_cut=row.document_cut,
                    document_sha256=row.sha256,
                    cleaned=",".join(rules),
                    raw=result.text if self._keep_raw else None,
                )
                return completed, None
            reason = ONLY_THOUGHT if text else f"{NO_TEXT} once it is cleaned"
            result = FailedRow(reason, "no_text", result.prompt_tokens, result.completion_tokens)
        return Rejected(id=row.id, status="failed", reason=readable(result.reason)), result

    async def _publish(self) -> None:
        """Write finished chunks as files, in another thread."""
        await self._write_all(methodcaller("publish_left_over"))
        while True:
            await asyncio.sleep(PUBLISH_SECONDS)
            await self._write_all(methodcaller("publish_full"))
            self._statistics.chunks = sum(ledger.published for ledger in self._ledgers.values())

    async def _sync(self) -> None:
        """Sync the journals to disk, and show the statistics."""
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            self._statistics.record_pace()
            self._settings.show(self._statistics)
            await self._write_all(methodcaller("sync"))

    async def _write_all(self, change: Callable[[JournalWriter], None]) -> None:
        for ledger in self._ledgers.values():
            await self._folders.write(partial(change, ledger))
