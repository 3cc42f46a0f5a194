"""Streams: send a training's loss curve to MLflow from a thread that the training never waits for.

MLflow's own asynchronous logging (`log_batch(..., synchronous=False)`, MLflow 3.17.2) was tried instead, against a
server on 127.0.0.1 that was killed with SIGKILL and restarted on the same store:

- server down for 20 s while 600 points were logged: all arrived, and no call took longer than 5 ms;
- server down for 7 minutes: after 5 minutes of retries MLflow gave up the batches in flight. 10 of 600 points were
  lost, with 10 errors on the terminal;
- process ended while the server was down: all queued points were lost, with one error per batch;
- creating the run is synchronous, so a server that is down at the start would delay the training.

Hence this module. It opens the run in the thread, too, keeps points until the server has accepted them, and waits for a
server for a limited time only. What has not arrived at the end is sent when the artifact is completed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.train.job import LossPoint

Send = Callable[[Sequence[LossPoint]], None]
T = TypeVar("T")

_threads: dict[str, threading.Thread] = {}
"""The latest thread that sends for each key; what it sends may still arrive."""
_given_up: set[threading.Thread] = set()
"""Threads that did not end in time; nobody waits for them again."""


class Unreachable(FinephraseError):
    """The server did not accept what was sent, or not in time."""


class Stream:
    """Points of a loss curve on their way to a server."""

    def __init__(self, key: str, begin: Callable[[], Send], *, every: float, rest: float = 30.0) -> None:
        """Start the thread.

        Args:
            key: what the points belong to; nothing else is sent for it until this thread has ended.
            begin: opens the server's record and returns the function that sends points to it.
            every: seconds between two batches.
            rest: seconds between a failure and the next attempt.
        """
        self.error: Exception | None = None
        self._key, self._begin, self._every, self._rest = key, begin, every, rest
        self._points: list[LossPoint] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"mlflow {key}", daemon=True)
        _threads[key] = self._thread
        self._thread.start()

    def follow(self, point: LossPoint) -> None:
        """Add a point to the next batch."""
        self._points.append(point)

    def close(self, patience: float) -> None:
        """Send one more batch and end.

        Raises:
            Unreachable: points could not be sent, or it takes longer than `patience` seconds.
        """
        self._closing.set()
        _wait(self._thread, patience)
        if self._points and self.error:
            raise Unreachable(str(self.error)) from self.error

    def _work(self) -> None:
        send, pause, closing = None, 0.0, False
        while not closing:
            closing = self._closing.wait(pause)
            count = len(self._points)
            try:
                send = send or self._begin()
                if count:
                    send(self._points[:count])
                del self._points[:count]
                pause = self._every
            except Exception as error:  # the clients of the various stores raise errors of all kinds
                self.error, pause = error, self._rest


@dataclass
class _Result(Generic[T]):
    values: list[T] = field(default_factory=list)
    error: Exception | None = None


def within(seconds: float, key: str, call: Callable[[], T]) -> T:
    """Return the result of a call to the server if it arrives in time.

    Args:
        seconds: how long to wait for an earlier call or stream of the same key, and then for this call.
        key: what the call is about.
        call: runs in a thread of its own.

    Raises:
        Unreachable: the call raised an error, or takes longer; then it continues and its result is ignored.
    """
    before, result = _threads.get(key), _Result[T]()
    if before is not None:
        _wait(before, seconds)

    def work() -> None:
        try:
            result.values.append(call())
        except Exception as error:  # errors of all kinds, as above
            result.error = error

    thread = threading.Thread(target=work, name=f"mlflow {key}", daemon=True)
    _threads[key] = thread
    thread.start()
    _wait(thread, seconds)
    if result.error is not None:
        raise Unreachable(str(result.error)) from result.error
    return result.values[0]


def _wait(thread: threading.Thread, seconds: float) -> None:
    if thread not in _given_up:
        thread.join(seconds)
    if thread.is_alive():
        _given_up.add(thread)
        raise Unreachable(f"no answer within {seconds:g} s")
    _given_up.discard(thread)
