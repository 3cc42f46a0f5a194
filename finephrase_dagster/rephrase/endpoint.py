"""The client's view of one endpoint: its connections, whether it answers, and how much it takes at once.

The states and what changes them are drawn in docs/rephrasing.md.
"""

from __future__ import annotations

import time
from enum import Enum

from finephrase_dagster.rephrase.account import EngineClock
from finephrase_dagster.rephrase.connection import MODELS_PATH, ConnectionPool, Response, Server
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.limit import ConcurrencyLimit
from finephrase_dagster.rephrase.policy import RetryPolicy


class EndpointState(Enum):
    """Whether an endpoint gets requests."""

    UP = "gets requests"
    DOWN = "left several requests in a row without an answer; gets none until it is alive"
    TRIAL = "is alive, but must answer one request before it gets more"


class EndpointClient:
    """Sends requests to one endpoint or engine and records how it answers."""

    def __init__(self, engine: EngineLike, policy: RetryPolicy, *, key: str | None, concurrency: int) -> None:
        self.engine = engine
        self.state = EndpointState.UP
        self.in_flight = 0
        self.clock = EngineClock()
        self.last_failure = ""
        self.down_since = 0.0  # while it is not up
        self.restarted_at = float("-inf")
        self.limit = ConcurrencyLimit(concurrency, policy)
        self._policy = policy
        self._key = key
        self._server = Server(engine.url, key)
        self._pool = ConnectionPool(self._server, policy)
        self._failures = 0  # consecutive
        self._pause = policy.first_pause
        self._paused_until = 0.0  # until the next check, or the next request on trial
        self._throttled_until = 0.0

    def __str__(self) -> str:
        return self.engine.url

    @property
    def is_up(self) -> bool:
        return self.state is EndpointState.UP

    @property
    def load(self) -> float:
        """Requests in flight as a share of the limit."""
        return self.in_flight / self.limit.value

    def is_ready(self, now: float) -> bool:
        """Return whether it may get a request now."""
        if now < max(self._paused_until, self._throttled_until) or self.state is EndpointState.DOWN:
            return False
        if self.state is EndpointState.TRIAL:
            return self.in_flight == 0
        return self.in_flight + 1 <= self.limit.value

    def needs_check(self, now: float) -> bool:
        """Return whether it is time to ask a silent endpoint if it is alive."""
        return self.state is EndpointState.DOWN and now >= self._paused_until

    async def post(self, path: str, body: bytes) -> Response:
        """Send one request; raises Unanswered."""
        self.in_flight += 1
        try:
            return await self._pool.post(path, body)
        finally:
            self.in_flight -= 1

    async def is_alive(self) -> bool:
        """Return whether it answers `/v1/models`, which generates nothing, with anything but a server error."""
        try:
            return (await self._server.fetch(MODELS_PATH, self._policy.alive_timeout)).status < 500
        except (OSError, TimeoutError):
            return False

    async def check(self, *, others_up: bool) -> bool:
        """Return whether it is alive; if it is not up, that changes its state: up, on trial if `others_up`, or down."""
        alive = await self.is_alive()
        if alive and not others_up:
            self.state, self._failures = EndpointState.UP, 0
        elif not self.is_up:  # no request was answered meanwhile
            self.state = EndpointState.TRIAL if alive else EndpointState.DOWN
            self._paused_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, self._policy.longest_pause)
        return alive

    def record_answer(self) -> None:
        """Record that a request was answered, with a completion or a refusal."""
        self._failures = 0
        self._pause = self._policy.first_pause
        self.state = EndpointState.UP
        self.limit.record_answer()

    def record_failure(self, now: float, reason: str) -> None:
        """Record that a request was not answered."""
        self.last_failure = reason
        self._failures += 1
        if self.is_up and self._failures >= self._policy.failures_until_down:
            self.down_since = now
            self.state = EndpointState.DOWN
        elif self.state is EndpointState.TRIAL:
            self.state = EndpointState.DOWN

    def record_throttled(self, now: float, retry_after: float | None) -> None:
        """Record "too many requests"; an overloaded endpoint gets none until `retry_after` seconds have passed."""
        self.limit.record_throttled(now, self.in_flight)
        if retry_after and self.limit.is_exceeded:
            until = now + min(retry_after, self._policy.retry_after_endpoint)
            self._throttled_until = max(self._throttled_until, until)

    def record_restart(self) -> None:
        """Record that the engine was restarted: it has a new address and a clean record."""
        self.restarted_at = time.monotonic()
        self.close("the engine was restarted")
        self._server = Server(self.engine.url, self._key)
        self._pool = ConnectionPool(self._server, self._policy)
        self.state, self._failures = EndpointState.UP, 0
        self._paused_until = self._throttled_until = 0.0
        self._pause = self._policy.first_pause

    def close_overdue(self, now: float, timeout: float) -> None:
        """End the requests that were sent more than `timeout` seconds ago."""
        self._pool.close_overdue(now, timeout)

    def close(self, reason: str) -> None:
        """End all requests and close all connections."""
        self._pool.close(reason)
