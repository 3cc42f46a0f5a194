"""What keeps students from having scores: the first thing upstream that is missing or did not pass its audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from finephrase_dagster.artifacts.graph import Item, State, failed_audits
from finephrase_dagster.artifacts.key import SCORES, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.plan.warnings import failed_gates


def unscored_runs(lineage: Lineage, graph: Mapping[str, Item], states: Mapping[str, State]) -> Iterator[str]:
    """Yield, for the student runs without scores by the present recipe, their mixtures and what they wait for.

    Args:
        graph: the items of the study by name, upstream first.
        states: the state of each.
    """
    waiting: dict[tuple[str, str], int] = {}
    for name, run in lineage.study.student_runs.items():
        scores = ItemKey(kind=SCORES, run=name).name
        if states[scores].status not in ("current", "stopped"):
            key = run.mixture, _obstacle(scores, graph, states)
            waiting[key] = waiting.get(key, 0) + 1
    for (mixture, obstacle), runs in waiting.items():
        yield f"{mixture} ({runs} student{'s' * (runs > 1)}): {obstacle}"


def _obstacle(name: str, graph: Mapping[str, Item], states: Mapping[str, State]) -> str:
    item = graph[name]
    for audit in failed_audits(item, graph):
        return f"{audit} did not pass ({failed_gates(graph[audit])})"
    for need in item.needs:
        if states[need].status not in ("current", "stopped"):
            return _obstacle(need, graph, states)
    return f"{name} is {states[name].status}"
