"""The client: chat completions from one or several endpoints, each tried until it is answered or given up.

A row that got no answer is refused if others got one meanwhile; if none did, it is in doubt, which the next
answer of the run decides, or at last a request that was answered before, asked again. What says that no row
can be answered (a wrong key, endpoints that give nothing) is raised as EngineFailed. An engine of our own
that died, or fell silent, is started again; a row that it died of time after time is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence

from finephrase_dagster.rephrase.completion import (
    Completion,
    FailedRow,
    RequestResult,
    Unreadable,
    UnresolvedRow,
    read_completion,
    read_error,
)
from finephrase_dagster.rephrase.connection import API_KEY, Response
from finephrase_dagster.rephrase.endpoint import EndpointClient, Unanswered
from finephrase_dagster.rephrase.engine import EngineFailed, EngineLike

PATH = "/v1/chat/completions"
ATTEMPTS = 5
STARTS_SECONDS = (0.0, 0.5, 1.5, 4.0, 10.0)  # when the attempts at a row begin, from the first
THROTTLED_SECONDS = 60.0  # how long a server may have too much to do for a row, while others are answered
THROTTLED_PAUSES_SECONDS = (0.1, 0.3, 1.0, 3.0)  # between attempts at such a row; the last again and again
SETTLE_PAUSES_SECONDS = (0.0, 0.5, 1.5, 4.0)  # before each time that a known answer is asked for again
OUTAGE_SECONDS = 30.0  # how long no endpoint may answer anything, if one did before
OUTAGE_AT_START_SECONDS = 10.0
# No answer may take longer than max_tokens at the usual pace, three times over, within these bounds. The pace of
# a long answer is no slower than that of short ones, which waited and were prefilled as well.
SLACK = 3.0
CHARACTERS_A_TOKEN = 4  # of text, where a server does not count
SHORTEST_WAIT_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 600.0
LONG_SECONDS = 12.0  # an attempt that took longer counts twice: a row that hangs shall not hold its place for ever
SILENCE_SECONDS = 60.0  # after so long without an answer, the endpoint is asked whether it is alive
WATCH_SECONDS = 0.25
DEATH_SECONDS = 1.0  # from an engine's broken connections to the end of its process
RESTARTS = 3  # of an engine, without an answer between them
STRIKES = 3  # deaths of an engine under one row
DOUBTS = 16  # rows in doubt, at least, before the endpoints are

KEY_STATUS = frozenset({401, 402, 403})
EVERY_ROWS_STATUS = KEY_STATUS | {404, 405}
LONGEST_ROW_PAUSE_SECONDS = 12.0  # what a row heeds of `Retry-After` where the server answers others
TRY_AGAIN_STATUS = frozenset({408, 409, 425})


class _Throttled(Exception):
    """The server has too much to do, and may say for how long."""

    def __init__(self, reason: str, retry_after: float | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Client:
    """An async context manager over the endpoints of a run."""

    def __init__(
        self,
        engines: Sequence[EngineLike],
        *,
        max_tokens: int,
        concurrency: int,
        key: str | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Describes it.

        Args:
            engines: where the model answers.
            max_tokens: of a completion; says how long an answer may take.
            concurrency: requests that will be in flight at most.
            key: the API key, if the servers want one.
            log: takes a line when an engine is started again.
        """
        self.repeated: Counter[str] = Counter()  # attempts beyond each row's first, by what made them necessary
        self.restarts = 0
        self.last_answer = float("-inf")
        self.proof = float("-inf")  # when the latest request was sent that got a completion
        self._endpoints = [EndpointClient(engine, key=key, concurrency=concurrency) for engine in engines]
        self._max_tokens = max_tokens
        self._most_doubts = max(DOUBTS, 2 * concurrency)
        self._key = key
        self._log = log
        self._pace: float | None = None  # seconds a token; of late answers more than of early ones
        self._mute = False  # no answer came at all, though it was waited for as long as may be
        self._asked_alive = time.monotonic()
        self._watching: asyncio.Task[None] | None = None
        self._asking: dict[EndpointClient, asyncio.Task[bool]] = {}
        self._reviving: dict[EndpointClient, asyncio.Task[None]] = {}
        self._restarts_in_vain = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._kept: EndpointClient | None = None  # for one request alone
        self._one_alone = asyncio.Lock()

    async def __aenter__(self) -> Client:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exception: object) -> None:
        running = (self._watching, *self._asking.values(), *self._reviving.values())
        tasks = [task for task in running if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self._endpoints:
            endpoint.drop("the run is over")

    async def complete(self, request: bytes) -> RequestResult:
        """Sends one request, the JSON of a chat completion, as often as it takes.

        Raises:
            EngineFailed: no endpoint can answer it or any other.
        """
        began = time.monotonic()
        attempts = strikes = throttled = 0
        failed: EndpointClient | None = None  # another one is asked next, if there is one
        while True:
            async with self._place(alone=strikes >= STRIKES - 1, first=bool(throttled), after=failed) as endpoint:
                sent, generation = time.monotonic(), endpoint.generation
                try:
                    return await self._ask(endpoint, request)
                except _Throttled as error:
                    reason, kind, throttled = str(error), "throttled", throttled + 1
                    pause = THROTTLED_PAUSES_SECONDS[min(throttled, len(THROTTLED_PAUSES_SECONDS)) - 1]
                    pause = max(pause, min(error.retry_after or 0.0, LONGEST_ROW_PAUSE_SECONDS))
                except Unanswered as error:
                    reason, kind, pause = str(error), "unanswered", 0.0
                    if self._mute:
                        raise self._nothing(reason) from error
                    if await self._died(endpoint, generation, under_way=error.under_way):
                        kind = "engine_died"
                        strikes += error.under_way
                    else:
                        failed, late = endpoint, time.monotonic() - sent > LONG_SECONDS
                        if await self._alive_after(endpoint, reason):  # else it says nothing of its row
                            attempts += 2 if late else 1
                        pause = began + STARTS_SECONDS[min(attempts, ATTEMPTS - 1)] - time.monotonic()
            if strikes >= STRIKES:
                return FailedRow(f"the engine died {strikes} times while it served this row: {reason}", kind)
            if attempts >= ATTEMPTS or (throttled >= ATTEMPTS and self._throttled_enough(endpoint, began)):
                reason = f"given up after {attempts + throttled} attempts: {reason}"
                return FailedRow(reason, kind) if self.proof > sent else UnresolvedRow(reason, kind, sent)
            self.repeated[kind] += 1
            await asyncio.sleep(pause)

    def _throttled_enough(self, endpoint: EndpointClient, began: float) -> bool:
        """Whether a row has waited long enough for a server that answers others at once, or none at all."""
        now = time.monotonic()
        mute = now - self.last_answer > THROTTLED_SECONDS
        return now - began > THROTTLED_SECONDS and (mute or not endpoint.busy)

    async def settle(self, doubts: Sequence[UnresolvedRow], *, known_good: bytes | None, end: bool) -> bool:
        """Whether rows in doubt are at fault themselves; False: that is to be seen.

        It is asked when there are many of them, or no other rows are left: by sending a request again that was
        answered before.

        Args:
            doubts: all there are.
            known_good: such a request, if there is one.
            end: whether no other rows are left.

        Raises:
            EngineFailed: it got no answer either, or there is none to send.
        """
        if not end and len(doubts) < self._most_doubts:
            return False
        failed: EndpointClient | None = None
        for pause in SETTLE_PAUSES_SECONDS if known_good is not None else ():
            self.repeated["settling"] += 1
            await asyncio.sleep(pause)
            with contextlib.suppress(Unanswered, _Throttled):
                async with self._place(alone=False, after=failed) as endpoint:
                    failed = endpoint
                    if isinstance(await self._ask(endpoint, known_good or b""), Completion):
                        return True
        raise self._nothing(doubts[-1].reason)

    async def _ask(self, endpoint: EndpointClient, request: bytes) -> Completion | FailedRow:
        """One attempt."""
        sent = time.monotonic()
        answer = await endpoint.post(PATH, request)
        now = time.monotonic()
        outcome: Completion | FailedRow
        if answer.status == 200:
            try:
                outcome = read_completion(answer.body)
            except Unreadable as error:
                raise Unanswered(self._told(str(error))) from error
            tokens = outcome.completion_tokens or len(outcome.text) / CHARACTERS_A_TOKEN
            pace = (now - sent) / max(1.0, tokens)
            self._pace = pace if self._pace is None else 0.95 * self._pace + 0.05 * pace
            self.proof = max(self.proof, sent)
        else:
            outcome = self._refusal(endpoint, answer, now)
        endpoint.answered()
        self.last_answer = now
        self._restarts_in_vain = 0
        return outcome

    def _refusal(self, endpoint: EndpointClient, answer: Response, now: float) -> FailedRow:
        """What an answer without a completion says: of its row, if it is not raised as something else."""
        reason = self._told(f"HTTP {answer.status}: {read_error(answer.body)}")
        if answer.status in EVERY_ROWS_STATUS or answer.status < 400:
            if self.proof > float("-inf"):  # it was right so far, so this may be the row's
                raise Unanswered(reason)
            if answer.status in KEY_STATUS:
                raise EngineFailed(f"{endpoint} refuses the API key ({reason}); set {API_KEY}")
            raise EngineFailed(f"{endpoint} does not know it ({reason}); correct the endpoint or the model's name")
        if answer.status == 429:
            endpoint.throttled(now, answer.retry_after)
            raise _Throttled(reason, answer.retry_after)
        if answer.status in TRY_AGAIN_STATUS or answer.status >= 500:
            raise Unanswered(reason)
        return FailedRow(reason, f"http_{answer.status}")

    def _told(self, text: str) -> str:
        """What a server said, without the key, should it have repeated that."""
        return text.replace(self._key, "***") if self._key else text

    @contextlib.asynccontextmanager
    async def _place(
        self, *, alone: bool, first: bool = False, after: EndpointClient | None = None
    ) -> AsyncIterator[EndpointClient]:
        """An endpoint that takes a request now.

        `alone`: when no other request is with it; `first`: before others; `after`: rather another than this.
        """
        try:
            if not alone:
                yield await self._choice(first=first, after=after)
                return
            async with self._one_alone:
                self._kept = endpoint = await self._choice()
                try:
                    while endpoint.in_flight or not endpoint.takes(time.monotonic()):
                        await self._wait()
                    yield endpoint
                finally:
                    self._kept = None
        finally:
            self._wake(1)

    async def _choice(self, *, first: bool = False, after: EndpointClient | None = None) -> EndpointClient:
        """The endpoint with the most room.

        Raises:
            EngineFailed: none has answered for too long.
        """
        while True:
            now = time.monotonic()
            ready = [one for one in self._endpoints if one is not self._kept and one.takes(now)]
            if ready:
                return min(ready, key=lambda one: (one is after, one.load)) if len(ready) > 1 else ready[0]
            await self._wait(first=first)
            await self._end_outage()

    async def _wait(self, *, first: bool = False) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        await turn

    def _wake(self, most: int) -> None:
        while self._waiting and most:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                most -= 1

    async def _watch(self) -> None:
        """Ends requests that wait too long, and wakes what waits for a time to pass."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for endpoint in self._endpoints:
                if endpoint.overdue(now, self._longest_wait) and self._pace is None:
                    self._mute = True
                if endpoint.needs_asking(now):
                    self._whether_alive(endpoint)
            quiet_since = max(self.last_answer, self._asked_alive)
            if now - quiet_since > SILENCE_SECONDS:
                self._asked_alive = now
                for endpoint in self._endpoints:
                    if endpoint.in_flight and not await endpoint.alive():
                        endpoint.drop("it does not answer at all")
            self._wake(len(self._waiting))

    async def _alive_after(self, endpoint: EndpointClient, reason: str) -> bool:
        """Notes a request without an answer; whether the endpoint is alive, which is asked at the third in a row."""
        endpoint.failed(time.monotonic(), reason)
        if endpoint.out_since is None:
            return True
        if endpoint.needs_asking(time.monotonic()) or endpoint in self._asking:
            return await asyncio.shield(self._whether_alive(endpoint))
        return False

    def _whether_alive(self, endpoint: EndpointClient) -> asyncio.Task[bool]:
        """Asks it; all that want to know wait for the same answer."""
        if endpoint not in self._asking:
            self._asking[endpoint] = asyncio.create_task(self._ask_whether_alive(endpoint))
        return self._asking[endpoint]

    async def _ask_whether_alive(self, endpoint: EndpointClient) -> bool:
        try:
            return await endpoint.ask(others=any(one.out_since is None for one in self._endpoints))
        finally:
            del self._asking[endpoint]
            self._wake(len(self._waiting))

    @property
    def _longest_wait(self) -> float:
        if self._pace is None:
            return LONGEST_WAIT_SECONDS
        return min(max(SLACK * self._pace * self._max_tokens, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)

    async def _end_outage(self) -> None:
        """Starts engines of our own again when no endpoint has answered for too long; raises if there are none."""
        since = [endpoint.out_since for endpoint in self._endpoints]
        if None in since:
            return
        patience = OUTAGE_SECONDS if self.last_answer > float("-inf") else OUTAGE_AT_START_SECONDS
        if time.monotonic() - max(one for one in since if one is not None) < patience:
            return
        restartable = [endpoint for endpoint in self._endpoints if endpoint.engine.restartable]
        if not restartable:
            raise self._nothing(self._endpoints[0].last_failure)
        for endpoint in restartable:
            await self._revive(endpoint)

    async def _died(self, endpoint: EndpointClient, generation: int, *, under_way: bool) -> bool:
        """Whether an engine of our own has ended since that generation; if so, it is started again."""
        if not endpoint.engine.restartable:
            return False
        if under_way and endpoint not in self._reviving:
            await asyncio.sleep(DEATH_SECONDS)
        if endpoint.generation != generation:
            return True
        if endpoint not in self._reviving:
            try:
                endpoint.engine.check()
                return False
            except EngineFailed as error:
                self._log(f"{error}\nStarting it again")
        await self._revive(endpoint)
        return True

    async def _revive(self, endpoint: EndpointClient) -> None:
        """Starts an engine again; all that asks for it waits for the same start."""
        if endpoint not in self._reviving:
            self._restarts_in_vain += 1
            if self._restarts_in_vain > RESTARTS:
                raise self._nothing(f"started again {RESTARTS} times in vain: {endpoint.last_failure}")
            self.restarts += 1
            self._reviving[endpoint] = asyncio.create_task(self._restart(endpoint))
        await asyncio.shield(self._reviving[endpoint])

    async def _restart(self, endpoint: EndpointClient) -> None:
        try:
            await asyncio.to_thread(endpoint.engine.restart)
        except asyncio.CancelledError:
            endpoint.engine.stop()  # which ends the start, too
            raise
        finally:
            del self._reviving[endpoint]
        endpoint.restarted()
        self._wake(len(self._waiting))

    def _nothing(self, reason: str) -> EngineFailed:
        names = ", ".join(str(endpoint) for endpoint in self._endpoints)
        answers = "answer" if len(self._endpoints) > 1 else "answers"
        return EngineFailed(
            f"{names} {answers} nothing ({reason}); see that it runs, then run again: what is finished is kept"
        )
