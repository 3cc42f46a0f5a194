"""Back-pressure: while a dataset's folder is slow or away, nothing more is sent, so that no paid answer is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from finephrase_dagster.artifacts.folder import FolderUnusable

SLOW_SECONDS = 2.0  # how long a write may take before nothing more is sent
AGAIN_SECONDS = 1.0  # pause before a write is repeated
AWAY_SECONDS = 600.0  # after which a run gives up


class BackPressure:
    """Writes to folders in other threads. Answers that arrive while a folder is away wait in memory."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._waiting: set[object] = set()
        self._is_writable = asyncio.Event()
        self._is_writable.set()

    async def wait(self) -> None:
        """Return once all folders can be written."""
        await self._is_writable.wait()

    async def write(self, change: Callable[[], None]) -> None:
        """Make a change that may be repeated, and repeat it while its folder is away.

        Raises:
            FolderUnusable: the folder stays away.
        """
        began, mark = time.monotonic(), object()
        try:
            while True:
                writing = asyncio.ensure_future(asyncio.to_thread(change))
                if not (await asyncio.wait({writing}, timeout=SLOW_SECONDS))[0]:
                    self._hold(mark, "it is slow")
                try:
                    return await writing
                except FolderUnusable as error:
                    if time.monotonic() - began > AWAY_SECONDS:
                        raise
                    self._hold(mark, str(error))
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            self._waiting.discard(mark)
            if not self._waiting:
                self._is_writable.set()

    def _hold(self, mark: object, reason: str) -> None:
        if not self._waiting:
            self._log(f"nothing is sent until the datasets' folder can be written: {reason}")
        self._waiting.add(mark)
        self._is_writable.clear()
