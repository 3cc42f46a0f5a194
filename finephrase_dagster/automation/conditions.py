"""Carrying on: what has become possible is launched, from the audit of a fresh dataset to the leaderboard.

Dagster's own conditions know which partitions were made, not by which recipe, so they cannot tell when all inputs of a
mixture are those of today. The files can: see `ready` in `study/graph.py`. A partition is launched when it becomes
ready, never because it is: what failed, or what nobody wanted so far, is not launched again and again.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

import dagster as dg

from finephrase_dagster.placement import priority
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.graph import items, ready
from finephrase_dagster.study.lineage import Lineage
from finephrase_dagster.study.prompt import PromptError

CARRIED = ("audits", "tokens", "mixtures", "early", "training", "evaluation")
"""The stages behind the synthetic datasets; each has a sensor of its own, for runs of one sensor have one priority."""
SECONDS = 30


class Ready(dg.AutomationCondition):
    """Whether a partition can be made, and is not there."""

    def __init__(self, names: Callable[[datetime.datetime], frozenset[str]]) -> None:
        self._names = names

    @property
    def name(self) -> str:
        return "ready"

    @property
    def description(self) -> str:
        return "Its inputs are there by today's recipes, no audit forbids it, and it is not there."

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        asset = "/".join(context.key.path)
        names = self._names(context.evaluation_time)
        subset = context.candidate_subset
        if context.partitions_def is None:
            return dg.AutomationResult(context, subset if asset in names else context.get_empty_subset())
        keys = {name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == asset}
        keys &= subset.expensively_compute_partition_keys()
        return dg.AutomationResult(context, subset.compute_intersection_with_partition_keys(keys))


def carried_on(lineage: Lineage, assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets, with the condition on those behind the synthetic datasets."""
    condition = Ready(_latest(_ready_names(lineage))).newly_true().since_last_handled().with_label("has become ready")
    condition = condition & ~dg.AutomationCondition.in_progress() & ~dg.AutomationCondition.any_deps_in_progress()
    carried = {asset for assets in carried_assets(lineage).values() for asset in assets}

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        named = "/".join(spec.key.path) in carried
        return spec.replace_attributes(automation_condition=condition) if named else spec

    return list(dg.map_asset_specs(with_condition, assets))


def carried_assets(lineage: Lineage) -> dict[str, list[str]]:
    """The assets of every stage that is carried on, those of a study without mixtures left out."""
    found: dict[str, dict[str, None]] = {}
    for item in items(lineage):
        if item.stage in CARRIED:
            found.setdefault(item.stage, {})[item.asset] = None
    return {stage: list(assets) for stage, assets in found.items()}


def build_carrying_sensors(lineage: Lineage) -> list[dg.AutomationConditionSensorDefinition]:
    """A sensor a stage, stopped by default."""
    return [
        dg.AutomationConditionSensorDefinition(
            name=f"carry_on_{stage}",
            target=dg.AssetSelection.assets(*(asset.split("/") for asset in assets)),
            run_tags=priority(stage),
            minimum_interval_seconds=SECONDS,
            emit_backfills=False,
            use_user_code_server=True,  # the condition is ours, and reads files
            default_status=dg.DefaultSensorStatus.STOPPED,
            description=f"Launches {', '.join(assets)} for what has become ready: its inputs are there by today's "
            "recipes, no audit forbids it, and it is not there.",
        )
        for stage, assets in carried_assets(lineage).items()
    ]


def _ready_names(lineage: Lineage) -> Callable[[], frozenset[str]]:
    """The names of what is ready, by the study and the prompts as they are on disk; nothing while they are wrong."""

    def names() -> frozenset[str]:
        try:
            fresh = Lineage.read(lineage.places)
        except (StudyError, PromptError):
            return frozenset()
        return frozenset(item.name for item in ready({item.name: item for item in items(fresh)}))

    return names


def _latest(names: Callable[[], frozenset[str]]) -> Callable[[datetime.datetime], frozenset[str]]:
    """Remembers the answer for one evaluation, which asks for every asset."""
    answers: dict[datetime.datetime, frozenset[str]] = {}

    def remembered(evaluation: datetime.datetime) -> frozenset[str]:
        found = answers.get(evaluation)
        if found is None:
            found = names()
            answers.clear()
            answers[evaluation] = found
        return found

    return remembered
