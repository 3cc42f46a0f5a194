"""How far a run is, for a person: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from finephrase_dagster.rephrase.statistics import RunStatistics


class Lines:
    """A line every so many seconds."""

    def __init__(self, log: Callable[[str], None], *, seconds: float) -> None:
        self._log = log
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, statistics: RunStatistics) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            self._log(statistics.line())

    def close(self) -> None:
        """There is nothing to close."""


class Bar:
    """A bar of requests with documents/s, output tokens/s, failures and the time that is left."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None

    def __call__(self, statistics: RunStatistics) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=statistics.total,
                initial=statistics.done_before,
                unit=" documents",
                file=sys.stderr,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(
            f"{statistics.tokens_per_second:,.0f} output tokens/s, {statistics.failed:,} failed", refresh=False
        )
        self._bar.update(statistics.done_before + statistics.done - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is, and goes on below it."""
        if self._bar is not None:
            self._bar.close()
