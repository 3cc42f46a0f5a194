"""One writer of a prefix in an object store, which has no locks: an object that only its creator refreshes."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from finephrase_dagster.artifacts.claim import LOCK, FolderBusy
from finephrase_dagster.artifacts.processes import is_running, this_machine, this_process
from finephrase_dagster.rephrase.folder import FolderUnusable

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # a holder of the lock that was not heard of for this long is taken for dead


class Objects(Protocol):
    """What a lock needs of the store."""

    def read(self, name: str) -> bytes: ...

    def put(self, name: str, content: bytes, mode: Literal["overwrite", "create"] = "overwrite") -> None: ...

    def take_away(self, names: Sequence[str]) -> None: ...


class Lock:
    """One writer of a prefix: an object that only its creator refreshes.

    A lock is dead if its process, where it is of this machine, has ended; else if it was not refreshed for
    a minute.
    """

    def __init__(self, folder: Objects) -> None:
        self._folder = folder
        self._token = uuid.uuid4().hex
        self._lost = False
        self._heard = time.time()
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Raises FolderBusy if another process holds it."""
        holder = self._holder()
        if holder is not None:
            if _lives(holder):
                raise FolderBusy(self._folder)
            self._folder.take_away([LOCK])
        try:
            self._folder.put(LOCK, self._content(), mode="create")
        except FileExistsError as error:
            if not self._mine():  # it is where a first try was heard, but its answer was lost
                raise FolderBusy(self._folder) from error
        self._beats.start()

    def check(self) -> None:
        """Raises FolderBusy if another process took it over, for this one was not heard of."""
        if not self._lost and time.time() - self._heard > SILENT_SECONDS / 2:
            self._refresh()
        if self._lost:
            raise FolderBusy(self._folder)

    def release(self) -> None:
        self._over.set()
        self._beats.join()
        with contextlib.suppress(FolderUnusable):  # then it is dead, as this process will be
            if self._mine():
                self._folder.take_away([LOCK])

    def _beat(self) -> None:
        while not self._lost and not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(FolderUnusable):  # a store that is away for a moment; the next beat may pass
                self._refresh()

    def _refresh(self) -> None:
        if self._mine():
            self._folder.put(LOCK, self._content())
            self._heard = time.time()
        else:
            self._lost = True

    def _content(self) -> bytes:
        content = {"token": self._token, "machine": this_machine(), "process": this_process(), "heard": time.time()}
        return json.dumps(content).encode()

    def _mine(self) -> bool:
        return (self._holder() or {}).get("token") == self._token

    def _holder(self) -> dict[str, Any] | None:
        """What the lock says; None if there is none."""
        try:
            return dict(json.loads(self._folder.read(LOCK)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return {}


def _lives(holder: dict[str, Any]) -> bool:
    if holder.get("machine") == this_machine():
        return is_running(str(holder.get("process")))
    return time.time() - float(holder.get("heard", 0)) < SILENT_SECONDS
