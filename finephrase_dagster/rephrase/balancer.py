"""Distributes requests over endpoints: chooses one for each attempt, checks silent ones, restarts dead engines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

from finephrase_dagster.rephrase.endpoint import EndpointClient
from finephrase_dagster.rephrase.engine import EngineFailed, EngineLike
from finephrase_dagster.rephrase.limit import TimeLimit
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics


class LoadBalancer:
    """The endpoints of a run; an async context manager."""

    def __init__(
        self,
        engines: Sequence[EngineLike],
        settings: ExecutionSettings,
        statistics: RunStatistics,
        time_limit: TimeLimit,
        *,
        key: str | None,
    ) -> None:
        policy = settings.retries
        self.last_answer = float("-inf")
        self._endpoints = [EndpointClient(one, policy, key=key, concurrency=settings.concurrency) for one in engines]
        statistics.clocks = [one.clock for one in self._endpoints]
        self._policy = policy
        self._log = settings.log
        self._statistics = statistics
        self._time_limit = time_limit
        self._waiting: deque[asyncio.Future[None]] = deque()  # attempts that no endpoint is ready for
        self._reserved: EndpointClient | None = None  # for one request alone
        self._reserving = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._checks: dict[EndpointClient, asyncio.Task[bool]] = {}
        self._restarts: dict[EndpointClient, asyncio.Task[None]] = {}
        self._restarts_without_answer = 0
        self._began = self._last_check = time.monotonic()
        self._notice = policy.notice  # seconds without an answer after which the log says so

    async def __aenter__(self) -> LoadBalancer:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exception: object) -> None:
        running = (self._watching, *self._checks.values(), *self._restarts.values())
        tasks = [task for task in running if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self._endpoints:
            endpoint.close("the run is over")

    def failure(self, reason: str) -> EngineFailed:
        """Return the error that ends a run whose endpoints answer nothing."""
        names = ", ".join(str(endpoint) for endpoint in self._endpoints)
        verb = "answer" if len(self._endpoints) > 1 else "answers"
        return EngineFailed(
            f"{names} {verb} nothing ({reason}). Start the server, then run the same command again to resume; finished "
            "rows are kept"
        )

    # Choosing an endpoint.

    def slot(
        self, *, alone: bool = False, first: bool = False, avoid: EndpointClient | None = None
    ) -> contextlib.AbstractAsyncContextManager[EndpointClient]:
        """Return a context manager that waits for an endpoint that is ready for a request.

        Args:
            alone: wait until the endpoint has no other request.
            first: go before other waiting requests.
            avoid: prefer any other endpoint to this one.

        Raises:
            EngineFailed: no endpoint has answered for too long.
        """
        return self._slot_alone() if alone else _Slot(self, first=first, avoid=avoid)

    @contextlib.asynccontextmanager
    async def _slot_alone(self) -> AsyncIterator[EndpointClient]:
        async with self._reserving, self.slot() as endpoint:
            self._reserved = endpoint
            try:
                while endpoint.in_flight or not endpoint.is_ready(time.monotonic()):
                    await self._wait()
                    await self._end_outage()
                yield endpoint
            finally:
                self._reserved = None

    async def choose(self, *, first: bool, avoid: EndpointClient | None) -> EndpointClient:
        """Wait for the endpoint with the lowest load of those that are ready."""
        while True:
            now = time.monotonic()
            ready = [one for one in self._endpoints if one is not self._reserved and one.is_ready(now)]
            if ready:
                return min(ready, key=lambda one: (one is avoid, one.load)) if len(ready) > 1 else ready[0]
            await self._wait(first=first)
            await self._end_outage()

    async def _wait(self, *, first: bool = False) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        await turn

    def wake(self, most: int) -> None:
        """Let this many waiting requests look for an endpoint."""
        while self._waiting and most:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                most -= 1

    def _wake_all(self) -> None:
        self.wake(len(self._waiting))

    # Recording answers, and checking endpoints that give none.

    def record_answer(self, endpoint: EndpointClient, now: float) -> None:
        """Record that a request was answered, with a completion or a refusal."""
        endpoint.record_answer()
        self.last_answer = now
        self._notice = self._policy.notice
        self._restarts_without_answer = 0

    async def record_failure(self, endpoint: EndpointClient, reason: str) -> bool:
        """Record a request without an answer; return whether its endpoint is alive nevertheless."""
        endpoint.record_failure(time.monotonic(), reason)
        if endpoint.is_up:
            return True
        if endpoint.needs_check(time.monotonic()) or endpoint in self._checks:
            return await asyncio.shield(self._check(endpoint))
        return False

    def _check(self, endpoint: EndpointClient) -> asyncio.Task[bool]:
        """Ask an endpoint whether it is alive; all callers wait for the same answer."""
        if endpoint not in self._checks:
            self._checks[endpoint] = asyncio.create_task(self._run_check(endpoint))
        return self._checks[endpoint]

    async def _run_check(self, endpoint: EndpointClient) -> bool:
        try:
            return await endpoint.check(others_up=any(one.is_up for one in self._endpoints))
        finally:
            del self._checks[endpoint]
            self._wake_all()

    async def _watch(self) -> None:
        """End overdue requests, check silent endpoints, and wake requests whose endpoint's pause is over."""
        while True:
            await asyncio.sleep(self._policy.watch_interval)
            now = time.monotonic()
            for endpoint in self._endpoints:
                endpoint.close_overdue(now, self._time_limit.seconds)
                if endpoint.needs_check(now):
                    self._check(endpoint)
            self._log_silence(now)
            if now - max(self.last_answer, self._last_check) > self._policy.silence:
                self._last_check = now
                for endpoint in self._endpoints:
                    if endpoint.in_flight and not await endpoint.is_alive():
                        endpoint.close("it does not answer at all")
            self._wake_all()

    def _log_silence(self, now: float) -> None:
        """Log which endpoints are waited for, ever less often."""
        if not self._waiting and not any(one.in_flight for one in self._endpoints):
            self._began = now  # nothing is sent, for example because the datasets' folder is away
        silence = now - max(self.last_answer, self._began)
        if silence > self._notice:
            self._notice = 2 * silence
            waits = [f"{one} ({one.last_failure or f'{one.in_flight:,} requests sent'})" for one in self._endpoints]
            most = self._time_limit.seconds
            first = self.last_answer == float("-inf") and any(one.engine.restartable for one in self._endpoints)
            usual = "the first answers of an engine take minutes on a CPU, and " if first else ""
            self._log(f"no answer for {silence:.0f} s from {', '.join(waits)}; {usual}a request may take {most:.0f} s")

    async def _end_outage(self) -> None:
        """Restart the engines of ours if nothing has been up for too long; raise EngineFailed if there are none."""
        if any(endpoint.is_up for endpoint in self._endpoints):
            return
        patience = self._policy.outage if self.last_answer > float("-inf") else self._policy.outage_at_start
        if time.monotonic() - max(endpoint.down_since for endpoint in self._endpoints) < patience:
            return
        restartable = [endpoint for endpoint in self._endpoints if endpoint.engine.restartable]
        if not restartable:
            raise self.failure(self._endpoints[0].last_failure)
        for endpoint in restartable:
            await self._restart(endpoint)

    # Restarting engines of ours.

    async def restart_if_dead(self, endpoint: EndpointClient, *, sent: float, received: bool) -> bool:
        """Return whether an engine of ours died after `sent`, the time of a request; if so it is restarted first.

        Args:
            received: whether the request reached the engine.
        """
        if not endpoint.engine.restartable:
            return False
        if received and endpoint not in self._restarts:
            await asyncio.sleep(self._policy.death)
        if endpoint.restarted_at > sent:
            return True
        if endpoint not in self._restarts:
            try:
                endpoint.engine.check()
                return False
            except EngineFailed as error:
                self._log(f"{error}\nThe engine is restarted")
        await self._restart(endpoint)
        return True

    async def _restart(self, endpoint: EndpointClient) -> None:
        """Restart an engine; all callers wait for the same restart."""
        if endpoint not in self._restarts:
            self._restarts_without_answer += 1
            if self._restarts_without_answer > self._policy.restarts:
                raise self.failure(f"{self._policy.restarts} restarts did not help: {endpoint.last_failure}")
            self._statistics.restarts += 1
            self._restarts[endpoint] = asyncio.create_task(self._run_restart(endpoint))
        await asyncio.shield(self._restarts[endpoint])

    async def _run_restart(self, endpoint: EndpointClient) -> None:
        began = time.monotonic()
        try:
            await asyncio.to_thread(endpoint.engine.restart)
        except asyncio.CancelledError:
            endpoint.engine.stop()  # which also ends the start
            raise
        finally:
            self._statistics.restart_seconds += time.monotonic() - began
            del self._restarts[endpoint]
        endpoint.record_restart()
        self._wake_all()


class _Slot:
    """Written out, because `contextlib.asynccontextmanager` takes 3 us, a tenth of the client's time per request."""

    def __init__(self, balancer: LoadBalancer, *, first: bool, avoid: EndpointClient | None) -> None:
        self._balancer = balancer
        self._first = first
        self._avoid = avoid

    async def __aenter__(self) -> EndpointClient:
        return await self._balancer.choose(first=self._first, avoid=self._avoid)

    async def __aexit__(self, *exception: object) -> None:
        self._balancer.wake(1)
