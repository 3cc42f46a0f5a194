"""The window: a fixed number of requests in flight, sliding over the rows of all files.

A slow request delays only the output file that its row belongs to. The outcome of a row is in its ledger's journal
before the next request is sent in its place, so a killed run repeats no more than what was in flight.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from finephrase_dagster.rephrase.backpressure import BackPressure
from finephrase_dagster.rephrase.clean import clean, is_unfinished_thought
from finephrase_dagster.rephrase.client import Client, UnresolvedRow
from finephrase_dagster.rephrase.completion import NO_TEXT, ONLY_THOUGHT, Completion, FailedRow, readable
from finephrase_dagster.rephrase.ledger import Chunk, Ledger
from finephrase_dagster.rephrase.loop import run_in_own_loop
from finephrase_dagster.rephrase.outcome import Completed, Rejected
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics

PUBLISH_SECONDS = 0.5
"""Time between two looks at finished chunks."""

SYNC_SECONDS = 0.5
"""Time between two syncs of the journals: what the machine's death may cost."""


class RowRequest(NamedTuple):
    """The request of one row and prompt, and the ledger's place for its outcome."""

    prompt: str
    id: str
    sha256: str
    request: bytes
    document_cut: bool
    chunk: Chunk
    position: int
    fit: Fit | None = None


CountTokens = Callable[[bytes], Awaitable[int]]
Fit = Callable[[CountTokens], Awaitable[RowRequest]]
"""Returns the request with as much of its document as fits, once an endpoint has counted its tokens."""


class Window:
    """Sends the requests of rows and records their outcomes."""

    def __init__(
        self,
        client: Client,
        ledgers: Mapping[str, Ledger],
        settings: ExecutionSettings,
        statistics: RunStatistics,
        *,
        keep_raw: bool,
        opening: str = "",
    ) -> None:
        """Describe a window; nothing is sent yet.

        Args:
            client: completes the requests.
            ledgers: by prompt, where outcomes are recorded.
            settings: concurrency, and what is called twice a second.
            statistics: where rows are counted.
            keep_raw: whether to record completions as they were before cleaning, too.
            opening: the beginning of a thought that the chat template writes in the model's place.
        """
        self._opening = opening
        self._client = client
        self._ledgers = ledgers
        self._settings = settings
        self._statistics = statistics
        self._keep_raw = keep_raw
        self._unresolved: deque[tuple[RowRequest, UnresolvedRow]] = deque()
        self._again = 0  # how many of them are tried again in any case
        self._resolving = asyncio.Lock()

    def run(self, rows: Iterator[RowRequest], *, earlier_request: Callable[[], bytes | None]) -> None:
        """Send all requests; `earlier_request` returns one that an earlier run completed, if there is one.

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
                await self._write_all(Ledger.sync)
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
            statistics.record_sent(again=unresolved is not None)
            try:
                if row.fit is not None:
                    row = await row.fit(self._client.count_tokens)
                result = await self._client.complete(row.request, unresolved)
            finally:
                statistics.record_returned()
            if isinstance(result, Completion):
                self._record_completion(row, result)
            elif isinstance(result, FailedRow):
                self._record_failure(row, result)
            else:
                self._unresolved.append((row, result))
                await self._resolve(at_most=self._client.max_unresolved - 1)

    def _next(self) -> tuple[RowRequest, UnresolvedRow | None] | None:
        """Return an unresolved row, if there has been a success since its last attempt, else the next row."""
        if self._unresolved and (self._again or self._unresolved[0][1].sent < self._client.last_success):
            self._again = max(0, self._again - 1)
            return self._unresolved.popleft()
        row = next(self._rows, None)
        return None if row is None else (row, None)

    async def _resolve(self, *, at_most: int) -> None:
        """If there are more unresolved rows than this, wait until they can be tried again."""
        async with self._resolving:
            if len(self._unresolved) > at_most and not self._again:
                await self._client.prove(self._unresolved[-1][1], earlier_request=self._earlier_request)
                self._again = len(self._unresolved)

    def _record_completion(self, row: RowRequest, completion: Completion) -> None:
        text = completion.text
        if self._opening and (completion.finish_reason == "length" or not is_unfinished_thought(self._opening + text)):
            text = self._opening + text
        text, rules = clean(text)
        if not text or (completion.finish_reason == "length" and is_unfinished_thought(text)):
            reason = ONLY_THOUGHT if text else f"{NO_TEXT} once it is cleaned"
            self._record_failure(row, FailedRow(reason, "no_text"))
            return
        outcome = Completed(
            id=row.id,
            text=text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            document_cut=row.document_cut,
            document_sha256=row.sha256,
            cleaned=",".join(rules),
            raw=completion.text if self._keep_raw else None,
        )
        self._ledgers[row.prompt].record(row.chunk, row.position, outcome)
        self._statistics.record_completion(completion)
        self._statistics.record_sample(row.id, row.prompt, text, prompts=len(self._ledgers))

    def _record_failure(self, row: RowRequest, result: FailedRow) -> None:
        outcome = Rejected(id=row.id, status="failed", reason=readable(result.reason))
        self._ledgers[row.prompt].record(row.chunk, row.position, outcome)
        self._statistics.failures[result.kind] += 1

    async def _publish(self) -> None:
        """Write finished chunks as files, in another thread."""
        await self._write_all(Ledger.publish_left_over)
        while True:
            await asyncio.sleep(PUBLISH_SECONDS)
            await self._write_all(Ledger.publish_full)
            self._statistics.chunks = sum(ledger.published for ledger in self._ledgers.values())

    async def _sync(self) -> None:
        """Sync the journals to disk, and show the statistics."""
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            self._settings.show(self._statistics)
            await self._write_all(Ledger.sync)

    async def _write_all(self, change: Callable[[Ledger], None]) -> None:
        for ledger in self._ledgers.values():
            await self._folders.write(partial(change, ledger))
