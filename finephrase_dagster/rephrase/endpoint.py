"""One endpoint of a run: its connections, how much it takes at once, and whether it answers.

An endpoint that answers nothing three times in a row is asked whether it is alive. If not, it is out, and is
asked again after a pause. If it is, it is in again, unless others are: then one request tries it first. One
that says "too many requests" gets fewer at a time.
"""

from __future__ import annotations

import asyncio
import time

from finephrase_dagster.rephrase.connection import Connection, ConnectionBroken, Response, Server
from finephrase_dagster.rephrase.engine import EngineLike

OUT_AFTER = 3  # failures in a row
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 60.0
CONNECTING = 64  # at once: more than a server's backlog takes are dropped, and tried a second later
ALIVE_SECONDS = 10.0
IDLE_SECONDS = 1.0  # a connection that was idle for less is not closed for that
MEMORY = 0.05  # weight of the latest answer in the share of those that said "too many requests"
MUCH, LITTLE = 0.3, 0.05  # shares at which an endpoint gets fewer at a time, and slowly more again
GROWTH = 1.02  # for each answer
ALONE = 5  # requests told so though nothing else was in flight: then it is not their number
PATIENT_SECONDS = 30.0  # for which their number is then left alone


class Unanswered(Exception):
    """One request got no answer; another attempt may. `under_way`: the server had it."""

    def __init__(self, reason: str, *, under_way: bool = True) -> None:
        super().__init__(reason)
        self.under_way = under_way


class EndpointClient:
    """The requests to one engine."""

    def __init__(self, engine: EngineLike, *, key: str | None, concurrency: int) -> None:
        self.engine = engine
        self.in_flight = 0
        self.out_since: float | None = None
        self.last_failure = ""
        self.generation = 0  # of its engine: one more with every restart
        self._server = Server(engine.url, key)
        self._key = key
        self._most = concurrency
        self._limit = float(concurrency)
        self._throttled_share = 0.0
        self._throttled_alone = 0
        self._patient_until = 0.0
        self._idle: list[Connection] = []
        self._busy: dict[Connection, float] = {}
        self._connecting = asyncio.Semaphore(CONNECTING)
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._closed_until = 0.0
        self._may_try = False

    def __str__(self) -> str:
        return self.engine.url

    @property
    def load(self) -> float:
        """How much of what it takes it has."""
        return self.in_flight / self._limit

    def takes(self, now: float) -> bool:
        """Whether it may get a request now; one that is out gets one at a time, after its pause."""
        if now < self._closed_until:
            return False
        if self.out_since is not None:
            return self._may_try and self.in_flight == 0
        return self.in_flight + 1 <= self._limit

    def needs_asking(self, now: float) -> bool:
        """Whether it is out, its pause is over, and nobody has asked whether it is alive."""
        return self.out_since is not None and now >= self._closed_until and not self._may_try

    async def post(self, path: str, body: bytes) -> Response:
        """Sends one request.

        Raises:
            Unanswered: no connection, or it broke.
        """
        self.in_flight += 1
        under_way = False
        try:
            while True:
                fresh = under_way or not self._idle  # after one idle connection that was closed, a new one
                connection = await self._connected(under_way) if fresh else self._idle.pop()
                if not connection.usable:
                    continue
                self._busy[connection] = time.monotonic()
                try:
                    answer = await connection.exchange(self._server.post(path, body))
                except ConnectionBroken as error:
                    if error.fresh or time.monotonic() - connection.used < IDLE_SECONDS:
                        raise Unanswered(str(error)) from error
                    under_way = True
                    continue  # most likely the server closed an idle connection just before this request came
                except asyncio.CancelledError:
                    connection.close()
                    raise
                finally:
                    del self._busy[connection]
                connection.used = time.monotonic()
                if connection.usable:
                    self._idle.append(connection)
                return answer
        finally:
            self.in_flight -= 1

    async def _connected(self, under_way: bool) -> Connection:
        async with self._connecting:
            if self._idle and not under_way:
                return self._idle.pop()
            try:
                return await self._server.connect()
            except (OSError, TimeoutError) as error:
                reason = f"no connection ({error or type(error).__name__})"
                raise Unanswered(reason, under_way=under_way) from error

    def answered(self) -> None:
        """Notes an answer to a request."""
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self.out_since = None
        self._throttled_share *= 1 - MEMORY
        if self._throttled_share < LITTLE:
            self._limit = min(self._most, self._limit * GROWTH)

    def failed(self, now: float, reason: str) -> None:
        """Notes a request without an answer."""
        self.last_failure = reason
        self._failures += 1
        if self.out_since is None and self._failures >= OUT_AFTER:
            self.out_since = now
        if self.out_since is not None:
            self._may_try = False

    def throttled(self, now: float, pause: float | None) -> None:
        """Notes that it had too much; if it often has, from now on it gets what it took at once."""
        self._throttled_share += MEMORY * (1 - self._throttled_share)
        self._throttled_alone += not self.in_flight
        if self._throttled_alone >= ALONE:
            self._throttled_alone = 0
            self._patient_until, self._limit = now + PATIENT_SECONDS, float(self._most)
        elif self._throttled_share > MUCH and now > self._patient_until:
            self._limit = max(1.0, min(self._limit, float(self.in_flight)))
            self._throttled_share = 2 * LITTLE
        if pause and self.busy:
            self._closed_until = max(self._closed_until, now + min(pause, LONGEST_RETRY_AFTER_SECONDS))

    @property
    def busy(self) -> bool:
        """Whether it has too much to do for many requests, not for one alone."""
        return self._throttled_share > MUCH / 2

    def overdue(self, now: float, seconds: float) -> bool:
        """Ends the requests that have waited longer than that, and says whether there were any."""
        late = [connection for connection, since in self._busy.items() if now - since > seconds]
        for connection in late:
            connection.close(f"no answer within {seconds:.0f} s")
        return bool(late)

    def drop(self, reason: str) -> None:
        """Ends all its requests and connections."""
        for connection in [*self._busy, *self._idle]:
            connection.close(reason)
        self._idle.clear()

    def restarted(self) -> None:
        """The engine is a new one: it has another address and a clean record."""
        self.generation += 1
        self._server = Server(self.engine.url, self._key)
        self.drop("the engine was started again")
        self._failures, self._pause, self._closed_until, self.out_since = 0, FIRST_PAUSE_SECONDS, 0.0, None

    async def ask(self, *, others: bool) -> bool:
        """Whether it is alive: then it is in again, or may be tried where `others` are in; else it pauses."""
        alive = await self.alive()
        if alive and not others:
            self.out_since, self._failures = None, 0
        else:
            self._may_try = alive
            self._closed_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return alive

    async def alive(self) -> bool:
        """Whether it answers `/v1/models`, which generates nothing, with anything but a server's error."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                connection = await self._server.connect()
                try:
                    return (await connection.exchange(self._server.get("/v1/models"))).status < 500
                finally:
                    connection.close()
        except (OSError, TimeoutError):
            return False
