"""What keeps students from having scores: the first thing upstream that is missing or did not pass its audit."""

from __future__ import annotations

from collections.abc import Mapping

from finephrase_dagster.artifacts.graph import Item, State, failed_audits
from finephrase_dagster.artifacts.key import SCORES, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.plan.warnings import failed_gates


def unscored_runs(lineage: Lineage, graph: Mapping[str, Item], states: Mapping[str, State]) -> dict[str, str]:
    """Return the student runs without scores by the present recipe, each with what it waits for.

    Args:
        graph: the items of the study by name, upstream first.
    """
    scores = {run: ItemKey(kind=SCORES, run=run).name for run in lineage.study.student_runs}
    return {
        run: _obstacle(name, graph, states)
        for run, name in scores.items()
        if states[name].status not in ("current", "stopped")
    }


def _obstacle(name: str, graph: Mapping[str, Item], states: Mapping[str, State]) -> str:
    item = graph[name]
    for audit in failed_audits(item, graph):
        return f"{audit} did not pass ({failed_gates(graph[audit])})"
    for need in item.needs:
        if states[need].status not in ("current", "stopped"):
            return _obstacle(need, graph, states)
    # Without its run, so that the reasons of many runs are the same.
    return f"{name if item.key.run is None else item.key.asset} is {states[name].status}"
