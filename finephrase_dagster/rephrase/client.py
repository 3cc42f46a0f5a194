"""The client: sends the request of a row until it is completed or the row is given up.

The life of a request is drawn in docs/rephrasing.md. In short: an attempt without an answer is repeated. A row fails
only if its last attempt began after another row's success; until then it is unresolved, because the endpoints may be at
fault. If no success comes by itself, a probe brings it: a request that was completed before is sent again. What
affects all rows (a wrong key, silent endpoints) raises EngineFailed.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finephrase_dagster.rephrase.balancer import LoadBalancer
from finephrase_dagster.rephrase.completion import (
    Completion,
    FailedRow,
    NotACompletion,
    read_completion,
    read_count,
    read_error,
)
from finephrase_dagster.rephrase.connection import API_KEY, CHAT_PATH, TOKENIZE_PATH, Response, Unanswered
from finephrase_dagster.rephrase.endpoint import EndpointClient
from finephrase_dagster.rephrase.engine import EngineFailed, EngineLike
from finephrase_dagster.rephrase.limit import TimeLimit
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics

KEY_STATUS = frozenset({401, 402, 403})
WRONG_SERVER_STATUS = frozenset({404, 405})
RETRY_STATUS = frozenset({408, 409, 425})


class _Throttled(Exception):
    """HTTP 429, or 503 with `Retry-After`; `retry_after` is that number of seconds, if the server gave one."""

    def __init__(self, reason: str, retry_after: float | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(slots=True)
class UnresolvedRow:
    """What has happened to a request that is neither completed nor given up.

    Times are on the clock of `time.monotonic()`.

    Attributes:
        began: when it was first tried.
        sent: when the latest attempt was sent.
        is_proven: whether the latest attempt began after the success of a request sent after the attempt before it.
        is_parked: whether it waited for the success of another row.
        unanswered: attempts without an answer; slow ones count twice.
        throttled: attempts answered "too many requests".
        engine_deaths: engines that died while they served it.
        reason, kind: of the latest failure.
        failed_at: the endpoint of the latest attempt without an answer.
        seconds, lost: engine-seconds of all attempts, and of those before the latest.
    """

    began: float
    sent: float = float("inf")
    is_proven: bool = False
    is_parked: bool = False
    unanswered: int = 0
    throttled: int = 0
    engine_deaths: int = 0
    reason: str = ""
    kind: str = ""
    failed_at: EndpointClient | None = None
    seconds: float = 0.0
    lost: float = 0.0


RequestResult = Completion | FailedRow | UnresolvedRow


class Client:
    """An async context manager that completes requests on the endpoints of a run."""

    def __init__(
        self,
        engines: Sequence[EngineLike],
        settings: ExecutionSettings,
        statistics: RunStatistics,
        *,
        max_tokens: int,
        key: str | None = None,
    ) -> None:
        """Describe a client; nothing is sent yet.

        Args:
            max_tokens: maximum tokens of a completion, from which time-outs follow.
            key: API key, if the servers need one.
        """
        self.last_success = float("-inf")  # when the request was sent that is the latest of all completed ones
        self._policy = settings.retries
        self.max_unresolved = max(self._policy.max_unresolved, 2 * settings.concurrency)
        self._statistics = statistics
        self._key = key
        self._time_limit = TimeLimit(max_tokens, settings.retries)
        self._balancer = LoadBalancer(engines, settings, statistics, self._time_limit, key=key)
        self._completed_request: bytes | None = None
        self._succeeded = time.monotonic()  # when the latest request was completed, or the run began

    async def __aenter__(self) -> Client:
        await self._balancer.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._balancer.__aexit__(*exception)

    async def complete(self, request: bytes, row: UnresolvedRow | None = None) -> RequestResult:
        """Send one request, the JSON of a chat completion, until it is completed or its row is given up.

        Args:
            row: records its attempts; what an earlier call returned for it, if it is to be tried again.

        Raises:
            EngineFailed: the endpoints can complete no request at all.
        """
        row = row or UnresolvedRow(began=time.monotonic())
        while True:
            alone = row.engine_deaths >= self._policy.deaths_per_row - 1
            async with self._balancer.slot(alone=alone, first=row.throttled > 0, avoid=row.failed_at) as endpoint:
                row.is_proven = self.last_success > row.sent
                row.sent = time.monotonic()
                try:
                    result = await self._attempt(endpoint, request, row)
                except _Throttled as error:
                    pause = self._record_throttled(row, error)
                except Unanswered as error:
                    pause = await self._record_unanswered(row, error, endpoint)
                else:
                    if isinstance(result, Completion):
                        self._completed_request = request
                    return result
            if (failed := self._give_up(row, endpoint)) is not None:
                return failed
            self._statistics.retries[row.kind] += 1
            await asyncio.sleep(pause)
            if self._is_at_its_last_attempt(row) and self.last_success < row.sent:
                row.is_parked = True
                return row

    async def prove(self, row: UnresolvedRow, *, earlier_request: Callable[[], bytes | None]) -> None:
        """Wait until a probe shows that the endpoints work, so that unresolved rows are tried again.

        If there is no probe, because no request was ever completed, only wait a while.

        Args:
            earlier_request: returns a request that an earlier run completed, if there is one.

        Raises:
            EngineFailed: nothing was completed for too long.
        """
        probe, pauses = self._completed_request or earlier_request(), self._policy.probe_pauses
        throttled, failed_at = row.kind == "throttled", None
        for number in itertools.count(1):
            if number > len(pauses) or probe is None:
                patience = self._policy.throttled_outage if throttled else self._policy.outage
                if time.monotonic() - self._succeeded > patience:
                    raise self._balancer.failure(row.reason)
            await asyncio.sleep(pauses[min(number, len(pauses)) - 1] if probe else pauses[-1])
            if probe is None:
                return
            self._statistics.retries["probe"] += 1
            try:
                async with self._balancer.slot(avoid=failed_at) as endpoint:
                    failed_at = endpoint
                    await self._attempt(endpoint, probe)
                    if self.last_success > row.sent:
                        return
            except (Unanswered, _Throttled) as error:
                throttled, row.reason = isinstance(error, _Throttled), str(error)

    async def count_tokens(self, request: bytes) -> int:
        """Return the number of tokens that an endpoint counts in a request to `/tokenize`.

        Raises:
            EngineFailed: no endpoint has counted them for too long.
        """
        pauses, began = self._policy.probe_pauses, time.monotonic()
        for number in itertools.count(1):
            await asyncio.sleep(pauses[min(number, len(pauses)) - 1])
            async with self._balancer.slot() as endpoint:
                try:
                    response = await endpoint.post(TOKENIZE_PATH, request)
                    return read_count(response.body)
                except (Unanswered, NotACompletion) as error:
                    reason = self._without_key(f"{TOKENIZE_PATH}: {error}")
            if number >= len(pauses) and time.monotonic() - began > self._policy.outage:
                raise self._balancer.failure(reason)
        raise AssertionError

    async def _attempt(
        self, endpoint: EndpointClient, request: bytes, row: UnresolvedRow | None = None
    ) -> Completion | FailedRow:
        """Send a request once, and add its share of the endpoint's time to its row.

        Raises:
            Unanswered, _Throttled: another attempt may be completed.
            EngineFailed: no request can be completed.
        """
        sent = time.monotonic()
        entered = endpoint.clock.enter(sent)
        try:
            response = await endpoint.post(CHAT_PATH, request)
        finally:
            now = time.monotonic()
            seconds = endpoint.clock.leave(entered, now)
            if row is not None:
                row.lost, row.seconds = row.seconds, row.seconds + seconds
        if self._key and self._key.encode() in response.body:  # before a reason is cut off within the key
            response = response._replace(body=response.body.replace(self._key.encode(), b"***"))
        result: Completion | FailedRow
        if response.status == 200:
            try:
                result = read_completion(response.body)
            except NotACompletion as error:
                raise Unanswered(self._without_key(str(error))) from error
            if isinstance(result, Completion):
                self._time_limit.record_completion(now - sent, result.completion_tokens, len(result.text))
            self.last_success, self._succeeded = max(self.last_success, sent), now
        else:
            result = self._refusal(endpoint, response, now)
        self._balancer.record_answer(endpoint, now)
        return result

    def _refusal(self, endpoint: EndpointClient, response: Response, now: float) -> FailedRow:
        """Return the failure that a response without a completion means for its row, or raise what else it means."""
        status = response.status
        redirect = response.redirect(str(endpoint), CHAT_PATH)
        reason = self._without_key(redirect or f"HTTP {status}: {read_error(response.body)}")
        if status < 400 or status in KEY_STATUS or status in WRONG_SERVER_STATUS:
            if self.last_success > float("-inf"):  # key and URL are right, so this concerns the row
                raise Unanswered(reason)
            if redirect:
                raise EngineFailed(reason)
            if status in KEY_STATUS:
                raise EngineFailed(f"{endpoint} refuses the API key ({reason}); set {API_KEY}")
            raise EngineFailed(
                f"{endpoint} does not know the path or the model ({reason}); correct the endpoint's URL or the model's "
                "name"
            )
        if status == 429 or (
            status == 503 and response.retry_after
        ):  # 503: busy or being restarted, as the server knows
            endpoint.record_throttled(now, response.retry_after)
            endpoint.last_failure = reason
            raise _Throttled(reason, response.retry_after)
        if status in RETRY_STATUS or status >= 500:
            raise Unanswered(reason)
        return FailedRow(reason, f"http_{status}")

    def _without_key(self, text: str) -> str:
        """Mask the API key, which a server may repeat in its message."""
        return text.replace(self._key, "***") if self._key else text

    def _record_throttled(self, row: UnresolvedRow, error: _Throttled) -> float:
        """Record a throttled attempt; return the seconds until the next."""
        row.reason, row.kind = str(error), "throttled"
        pauses = self._policy.throttled_pauses
        pause = pauses[min(row.throttled, len(pauses) - 1)]
        row.throttled += 1
        return max(pause, min(error.retry_after or 0.0, self._policy.retry_after_row))

    async def _record_unanswered(self, row: UnresolvedRow, error: Unanswered, endpoint: EndpointClient) -> float:
        """Record an attempt without an answer; return the seconds until the next."""
        row.reason, row.kind = str(error), "unanswered"
        seconds = time.monotonic() - row.sent
        if not self._time_limit.is_known and seconds >= self._time_limit.seconds:
            raise self._balancer.failure(row.reason) from error
        if await self._balancer.restart_if_dead(endpoint, sent=row.sent, received=error.received):
            row.kind = "engine_died"
            row.engine_deaths += error.received
            return 0.0
        row.failed_at = endpoint
        if await self._balancer.record_failure(endpoint, row.reason):  # otherwise the endpoint is at fault
            row.unanswered += 2 if seconds > self._policy.slow_attempt else 1
        starts = self._policy.attempt_starts
        return row.began + starts[min(row.unanswered, len(starts) - 1)] - time.monotonic()

    def _give_up(self, row: UnresolvedRow, endpoint: EndpointClient) -> FailedRow | None:
        """Return the failure of a row that has used up its attempts, or None."""
        if row.engine_deaths >= self._policy.deaths_per_row:
            reason = f"the engine died {row.engine_deaths} times while it served this row: {row.reason}"
            return FailedRow(reason, row.kind)
        is_throttled = self._is_throttled_long_enough(row) and (row.is_parked or not endpoint.limit.is_exceeded)
        if row.is_proven and (row.unanswered >= len(self._policy.attempt_starts) or is_throttled):
            return FailedRow(f"given up after {row.unanswered + row.throttled} attempts: {row.reason}", row.kind)
        return None

    def _is_at_its_last_attempt(self, row: UnresolvedRow) -> bool:
        return row.unanswered >= len(self._policy.attempt_starts) - 1 or self._is_throttled_long_enough(row)

    def _is_throttled_long_enough(self, row: UnresolvedRow) -> bool:
        is_long = time.monotonic() - row.began > self._policy.throttled_row
        return is_long and row.throttled >= len(self._policy.attempt_starts)
