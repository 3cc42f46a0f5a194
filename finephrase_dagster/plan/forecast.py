"""How long the rest of a materialization takes and what it costs: the plan's figures, corrected by the run's own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from finephrase_dagster.artifacts.graph import Item, current_facts
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.plan.cost import Cost, Estimator
from finephrase_dagster.plan.measured import Measured
from finephrase_dagster.plan.published import Published


class Forecast:
    """Expected seconds and dollars by item. A stage whose items took longer than expected is scaled accordingly.

    What a failure keeps from being made takes no time and costs nothing.
    """

    def __init__(self, costs: dict[str, Cost], items: Iterable[Item] = (), *, gpu_hour_dollars: float = 0.0) -> None:
        self._costs, self._items, self._price = dict(costs), list(items), gpu_hour_dollars
        self._spent = 0.0
        self._expected, self._taken = defaultdict[str, float](float), defaultdict[str, float](float)

    @classmethod
    def of(cls, lineage: Lineage, items: Iterable[Item]) -> Forecast:
        """Return the forecast for a study's items, by the figures of `finephrase plan`; what exists costs nothing."""
        published = Published.read()
        estimator = Estimator(lineage, published=published, measured=Measured(lineage.paths.data))
        items = list(items)
        missing = (item for item in items if current_facts(item) is None)
        costs = {item.name: estimator.cost(item) for item in missing if hasattr(estimator, f"_{item.stage}")}
        forecast = cls(costs, items, gpu_hour_dollars=published.gpu_hour_dollars)
        forecast._forget_blocked(item for item in items if (current_facts(item) or {}).get("passed") is False)
        return forecast

    def record(self, items: Sequence[Item], seconds: float, *, failed: bool = False) -> None:
        """Take into account that a run of these items, all of one stage, took so many seconds."""
        self._spent += self._dollars(items)
        if failed:
            self._forget_blocked(items)
        else:
            self._expected[items[0].stage] += self._planned(items)
            self._taken[items[0].stage] += seconds

    def _forget_blocked(self, failed: Iterable[Item]) -> None:
        """Forget the costs of what cannot be made, because of failed items or of audits that a dataset did not pass."""
        refused, blocked = set[str](), set[str]()
        for item in failed:
            (blocked if current_facts(item) is None else refused).add(item.name)
        for item in self._items:  # upstream first
            if refused & {*item.audits} or blocked & {*item.needs}:
                blocked.add(item.name)
                self._costs.pop(item.name, None)

    def seconds(self, items: Sequence[Item]) -> float:
        """Return the expected seconds of items of one stage; those whose cost is unknown count as 0."""
        if not items:
            return 0.0
        expected = self._expected[items[0].stage]
        return self._planned(items) * (self._taken[items[0].stage] / expected if expected else 1.0)

    def cost(self, left: Iterable[Item]) -> str:
        """Return what the GPUs have cost so far, of what everything would cost; empty where no GPU costs anything."""
        expected = self._spent + self._dollars(left)
        return f"${self._spent:,.2f} of about ${expected:,.2f}" if expected else ""

    def _dollars(self, items: Iterable[Item]) -> float:
        return math.fsum(cost.gpu_hours * self._price for item in items if (cost := self._costs.get(item.name)))

    def _planned(self, items: Iterable[Item]) -> float:
        return 3600 * math.fsum(
            cost.hours + cost.gpu_hours for item in items if (cost := self._costs.get(item.name)) is not None
        )
