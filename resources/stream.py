"""Streams: what a training tells MLflow while it runs, sent by a thread that the training never waits for.

A server may be down or slow. So whatever talks to one is done by a thread of its own, is waited for only so
long, and what did not arrive is told later.
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

_busy: dict[str, threading.Thread] = {}
"""The thread that was last seen talking for each key: what it sends may still arrive."""
_waited_for: set[threading.Thread] = set()
"""Those that did not end in time: nobody waits for them again."""


class Unreachable(FinephraseError):
    """The server did not take what it was told, or not in time."""


class Stream:
    """Points of a loss curve on their way to a server."""

    def __init__(self, key: str, begin: Callable[[], Send], *, every: float, rest: float = 30.0) -> None:
        """Starts the thread.

        Args:
            key: what the points belong to; nothing else is sent for it until this has ended.
            begin: opens the server's record of it; gives what sends points there.
            every: seconds between two batches.
            rest: seconds after a failure until the next attempt.
        """
        self.trouble: Exception | None = None
        self._key, self._begin, self._every, self._rest = key, begin, every, rest
        self._points: list[LossPoint] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"mlflow {key}", daemon=True)
        _busy[key] = self._thread
        self._thread.start()

    def follow(self, point: LossPoint) -> None:
        """Takes a point along with the next batch."""
        self._points.append(point)

    def close(self, patience: float) -> None:
        """Ends after one more batch.

        Raises:
            Unreachable: points are left, or it takes longer than `patience` seconds.
        """
        self._closing.set()
        _wait(self._thread, patience)
        if self._points and self.trouble:
            raise Unreachable(str(self.trouble)) from self.trouble

    def _work(self) -> None:
        send, pause, closing = None, 0.0, False
        while not closing:
            closing = self._closing.wait(pause)
            sent = len(self._points)
            try:
                send = send or self._begin()
                if sent:
                    send(self._points[:sent])
                del self._points[:sent]
                pause = self._every
            except Exception as error:  # whatever a client of a server that is not there raises
                self.trouble, pause = error, self._rest


@dataclass
class _Answer(Generic[T]):
    value: list[T] = field(default_factory=list)
    error: Exception | None = None


def within(seconds: float, key: str, talk: Callable[[], T]) -> T:
    """What `talk` gives, if it does so in time.

    Args:
        seconds: to wait for it, and before for what else is talking for this key.
        key: what it is about.

    Raises:
        Unreachable: it raised something, or takes longer; it then goes on unheard.
    """
    before, answer = _busy.get(key), _Answer[T]()
    if before is not None:
        _wait(before, seconds)

    def work() -> None:
        try:
            answer.value.append(talk())
        except Exception as error:  # as above
            answer.error = error

    thread = threading.Thread(target=work, name=f"mlflow {key}", daemon=True)
    _busy[key] = thread
    thread.start()
    _wait(thread, seconds)
    if answer.error is not None:
        raise Unreachable(str(answer.error)) from answer.error
    return answer.value[0]


def _wait(thread: threading.Thread, seconds: float) -> None:
    if thread not in _waited_for:
        thread.join(seconds)
    if thread.is_alive():
        _waited_for.add(thread)
        raise Unreachable(f"no answer within {seconds:g} s")
    _waited_for.discard(thread)
