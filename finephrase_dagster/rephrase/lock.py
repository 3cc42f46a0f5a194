"""The lock of a folder in an object store: an object that its owner refreshes every few seconds."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from finephrase_dagster.artifacts.claim import LOCK, FolderBusy
from finephrase_dagster.artifacts.folder import FolderUnusable
from finephrase_dagster.artifacts.processes import is_running, this_machine, this_process

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # an owner that has not refreshed its lock for this long is taken to be dead


class Objects(Protocol):
    """The part of an object store that a lock needs."""

    def read(self, name: str) -> bytes: ...

    def tag(self, name: str) -> str | None: ...

    def replace(self, name: str, content: bytes, tag: str | None) -> None: ...

    def put(self, name: str, content: bytes, mode: Literal["overwrite", "create"] = "overwrite") -> None: ...

    def delete(self, names: Sequence[str]) -> None: ...

    def age(self, name: str) -> float: ...


class Lock:
    """Lets one process at a time write a folder of an object store.

    An owner on this machine is dead if its process has ended; an owner on another machine, if it has not refreshed the
    lock for a minute by the store's clock, because the clocks of machines differ. The lock of a dead owner is replaced
    on the condition that nobody else has replaced it.
    """

    def __init__(self, folder: Objects) -> None:
        self._folder = folder
        self._token = uuid.uuid4().hex
        self._lost = False
        self._beats = 0
        self._heard = _elapsed()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Take the lock; raise FolderBusy if another process holds it."""
        tag, holder = self._folder.tag(LOCK), self._holder()
        if holder is not None and self._is_alive(holder):
            raise FolderBusy(self._folder)
        try:
            if holder is None:
                self._folder.put(LOCK, self._content(), mode="create")
            else:
                self._folder.replace(LOCK, self._content(), tag)
        except FileExistsError as error:
            if not self._mine():  # a first attempt may have succeeded, though its response was lost
                raise FolderBusy(self._folder) from error
        self._beating.start()

    def refuse_if_held(self) -> None:
        """Raise FolderBusy if another process holds the lock."""
        if (holder := self._holder()) is not None and self._is_alive(holder):
            raise FolderBusy(self._folder)

    def check(self) -> None:
        """Raise FolderBusy if another process has taken the lock over because this one did not refresh it."""
        if not self._lost and _elapsed() - self._heard > SILENT_SECONDS / 2:
            self._refresh()
        if self._lost:
            raise FolderBusy(self._folder)

    def release(self) -> None:
        """Stop refreshing the lock and delete it."""
        self._over.set()
        self._beating.join()
        with contextlib.suppress(FolderUnusable):  # the lock then expires
            if self._mine():
                self._folder.delete([LOCK])

    def _beat(self) -> None:
        while not self._lost and not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(FolderUnusable):  # if the store is down for a moment, the next beat may succeed
                self._refresh()

    def _refresh(self) -> None:
        tag = self._folder.tag(LOCK)  # before the content, so that the content is not older
        is_mine = self._mine()
        if is_mine:
            try:
                self._folder.replace(LOCK, self._content(), tag)
            except FileExistsError:
                is_mine = self._mine()  # a first attempt may have succeeded, though its response was lost
        if is_mine:
            self._heard = _elapsed()
        else:
            self._lost = True

    def _content(self) -> bytes:
        self._beats += 1  # so that each version has a tag of its own
        content = {"token": self._token, "machine": this_machine(), "process": this_process(), "beats": self._beats}
        return json.dumps(content).encode()

    def _mine(self) -> bool:
        return (self._holder() or {}).get("token") == self._token

    def _holder(self) -> dict[str, Any] | None:
        """Return the content of the lock; None if there is none."""
        try:
            return dict(json.loads(self._folder.read(LOCK)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return {}

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("machine") == this_machine():
            return is_running(str(holder.get("process")))
        try:
            return self._folder.age(LOCK) < SILENT_SECONDS
        except FileNotFoundError:  # it was released in the meantime
            return False


def _elapsed() -> float:
    """Return seconds on a clock that nobody sets and that runs while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
