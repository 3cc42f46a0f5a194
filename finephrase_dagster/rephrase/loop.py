"""Runs a coroutine in an event loop of its own, also from a notebook, and passes interrupts on."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def run_in_own_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine to its end, even if the calling thread already runs an event loop (a notebook).

    In the main thread an interrupt cancels the coroutine and is then raised again for the previous handler: a
    handler that raises inside the loop's own callbacks would only be logged there. If tasks of the coroutine fail,
    the first failure is raised, not its group.
    """
    try:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if threading.current_thread() is threading.main_thread():
                _run_interruptible(work)
            else:
                _run(work)
        else:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(_run, work).result()
    except BaseExceptionGroup as failures:
        raise _first_of(failures) from None


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def _run_interruptible(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    handlers = {number: signal.getsignal(number) for number in INTERRUPTS}
    received: list[signal.Signals] = []

    async def interruptible() -> None:
        task = asyncio.current_task()
        assert task is not None

        def interrupt(number: signal.Signals) -> None:
            received.append(number)
            task.cancel()

        for number in INTERRUPTS:
            if handlers[number] not in (signal.SIG_IGN, None):
                asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
        await work()

    try:
        _run(interruptible)
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure in a group, which may hold groups."""
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
