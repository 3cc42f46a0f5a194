"""Shows a person how far a rephrasing run is: progress bars on a terminal, lines of a log elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from finephrase_dagster.rephrase.statistics import RunStatistics, duration

if TYPE_CHECKING:
    from rich.console import Console


class Lines:
    """Logs a line at most every `seconds`."""

    def __init__(self, log: Callable[[str], None], *, seconds: float) -> None:
        self._log = log
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, statistics: RunStatistics) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            self._log(statistics.line())

    def close(self) -> None:
        """Do nothing: lines need no closing."""


class Bars:
    """Two bars: documents, and requests (one per document and prompt)."""

    def __init__(self, prompts: int, console: Console | None = None) -> None:
        """Prepare the bars of a run with this many prompts; they appear on standard error, or on `console`."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._prompts = prompts
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            console=console or Console(stderr=True),
            auto_refresh=False,
        )
        self._documents = self._progress.add_task("documents", total=None, details="")
        self._requests = self._progress.add_task("requests", total=None, details="")

    def __call__(self, statistics: RunStatistics) -> None:
        if not self._progress.live.is_started:
            self._progress.start()
        done, total = statistics.done_before + statistics.done, statistics.total or None
        left = f", {duration(statistics.seconds_left)} left" if statistics.seconds_left is not None else ""
        self._progress.update(
            self._documents,
            completed=done // self._prompts,
            total=total and total // self._prompts,
            details=f"{statistics.requests_per_second / self._prompts:,.1f}/s{left}",
        )
        self._progress.update(
            self._requests,
            completed=done,
            total=total,
            details=f"{statistics.tokens_per_second:,.0f} output tokens/s, {statistics.failed:,} failed",
        )
        self._progress.refresh()

    def close(self) -> None:
        """Leave the bars on the terminal; later output is printed below them."""
        if self._progress.live.is_started:
            self._progress.stop()
