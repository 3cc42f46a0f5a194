"""How far a study's materialization is, as lines, for a terminal without the live view and for logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.orchestration.progress import Event, RunEnded, Settled
from finephrase_dagster.plan.forecast import Forecast
from finephrase_dagster.rephrase.statistics import duration


class OverallProgress:
    """Prints a line after each run: items done of all, the time left, and the cost of the GPUs so far."""

    def __init__(self, items: Sequence[Item], forecast: Forecast, log: Callable[[str], None]) -> None:
        self._left, self._total = {item.name: item for item in items}, len(items)
        self._forecast, self._log = forecast, log
        self._failed = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Settled):
            self._left.pop(event.item.name, None)
        if not isinstance(event, RunEnded):
            return
        for item in event.items:
            self._left.pop(item.name, None)
        self._failed += len(event.items) if event.error else 0
        self._forecast.record(event.items, event.seconds, failed=event.error is not None)
        left = list(self._left.values())
        stages = (list(of_stage) for _, of_stage in groupby(left, key=lambda item: item.stage))
        seconds = sum(self._forecast.seconds(of_stage) for of_stage in stages)
        cost = f", {spent}" if (spent := self._forecast.cost(left)) else ""
        failed = f", {self._failed} failed" if self._failed else ""
        done = self._total - len(left) - self._failed
        self._log(f"{done} of {self._total} done{failed}, about {duration(seconds)} left{cost}")
