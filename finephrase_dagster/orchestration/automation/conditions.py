"""Carrying on: what has become possible is launched, from the audit of a fresh dataset to the leaderboard.

Dagster's own conditions know which partitions were made, not by which recipe, so they cannot tell when all inputs of a
mixture are those of today. The files can: see `ready` in `artifacts/graph.py`. A partition is launched when it becomes
ready, never because it is: what failed, or what nobody wanted so far, is not launched again and again.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dagster as dg

from finephrase_dagster.artifacts.graph import items, ready
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.placement import priority
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.prompt import PromptError

CARRIED = ("audits", "tokens", "mixtures", "early", "training", "evaluation")
"""The stages behind the synthetic datasets; each has a sensor of its own, for runs of one sensor have one priority."""
SECONDS = 30


Recipes = Mapping[str, Mapping[str, str]]
"""The items that can be made: the fingerprints of their recipes by asset and partition ("" without partitions)."""


class Ready(dg.AutomationCondition[dg.AssetKey]):
    """Whether a partition can be made, and is not there."""

    def __init__(self, recipes: Callable[[datetime.datetime], Recipes]) -> None:
        self._recipes = recipes

    @property
    def name(self) -> str:
        return "ready"

    @property
    def description(self) -> str:
        return "Its inputs are there by today's recipes, no audit forbids it, and it is not there."

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        return dg.AutomationResult(context, _some(context, self._of(context)))

    def _of(self, context: dg.AutomationContext) -> dict[str, str]:
        """Of the asset's partitions those that can be made, with their fingerprints."""
        return dict(self._recipes(context.evaluation_time).get("/".join(context.key.path), {}))


class NewlyReady(Ready):
    """Whether it can be made by a recipe by which it could not be at the last look.

    Not the same as having become ready: what failed under one recipe may be possible under the next before anybody
    looked in between.
    """

    @property
    def name(self) -> str:
        return "newly_ready"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        found = self._of(context)
        before = json.loads(context.cursor) if context.cursor else found  # at the first look nothing is new
        # What was launched at the last look is handled at this one: what is new of it is told at the next.
        launched = context.get_previous_requested_subset(context.key)
        if launched is not None and not launched.is_empty:
            keys = [""] if context.partitions_def is None else launched.expensively_compute_partition_keys()
            found |= {key: before[key] for key in keys if key in before and key in found}
        news = [partition for partition, recipe in found.items() if before.get(partition) != recipe]
        return dg.AutomationResult(context, _some(context, news), cursor=json.dumps(found))


def _some(context: dg.AutomationContext, partitions: Iterable[str]) -> Any:
    """The candidates among these partitions; an asset without any counts as the partition without a name."""
    subset, chosen = context.candidate_subset, set(partitions)
    if context.partitions_def is None:
        return subset if chosen else context.get_empty_subset()
    chosen &= subset.expensively_compute_partition_keys()
    return subset.compute_intersection_with_partition_keys(chosen)


def carried_on(lineage: Lineage, assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets, with the condition on those behind the synthetic datasets."""
    recipes = _latest(_ready_recipes(lineage))
    newly: dg.AutomationCondition[Any] = NewlyReady(recipes)
    condition = (
        Ready(recipes)
        & newly.since(dg.AutomationCondition.newly_requested()).with_label("has become ready")
        & ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.any_deps_in_progress()
    )
    carried = {asset for assets in carried_assets(lineage).values() for asset in assets}

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=condition) if spec.key in carried else spec

    return list(dg.map_asset_specs(with_condition, assets))


def carried_assets(lineage: Lineage) -> dict[str, list[dg.AssetKey]]:
    """The assets of every stage that is carried on, those of a study without mixtures left out."""
    by_stage: dict[str, dict[dg.AssetKey, None]] = {}
    for item in items(lineage):
        if item.stage in CARRIED:
            by_stage.setdefault(item.stage, {})[dg.AssetKey(item.key.path)] = None
    return {stage: list(assets) for stage, assets in by_stage.items()}


def build_carrying_sensors(lineage: Lineage) -> list[dg.AutomationConditionSensorDefinition]:
    """A sensor a stage, stopped by default."""

    def names(assets: Iterable[dg.AssetKey]) -> str:
        return ", ".join("/".join(asset.path) for asset in assets)

    return [
        dg.AutomationConditionSensorDefinition(
            name=f"carry_on_{stage}",
            target=dg.AssetSelection.assets(*assets),
            run_tags=priority(stage),
            minimum_interval_seconds=SECONDS,
            emit_backfills=False,
            use_user_code_server=True,  # the condition is ours, and reads files
            default_status=dg.DefaultSensorStatus.STOPPED,
            description=f"Launches {names(assets)} for what has become ready: its inputs are there by today's "
            "recipes, no audit forbids it, and it is not there.",
        )
        for stage, assets in carried_assets(lineage).items()
    ]


def _ready_recipes(lineage: Lineage) -> Callable[[], Recipes]:
    """What is ready, by the study and the prompts as they are on disk; nothing while they are wrong."""

    def recipes() -> Recipes:
        try:
            fresh = read_lineage(lineage.paths)
        except (StudyError, PromptError):
            return {}
        by_asset: dict[str, dict[str, str]] = {}
        for item in ready({item.name: item for item in items(fresh)}):
            by_asset.setdefault(item.asset, {})[item.partition or ""] = item.artifact().fingerprint
        return by_asset

    return recipes


def _latest(recipes: Callable[[], Recipes]) -> Callable[[datetime.datetime], Recipes]:
    """Remembers the answer for one evaluation, which asks for every asset."""
    answers: dict[datetime.datetime, Recipes] = {}

    def remembered(evaluation: datetime.datetime) -> Recipes:
        found = answers.get(evaluation)
        if found is None:
            found = recipes()
            answers.clear()
            answers[evaluation] = found
        return found

    return remembered
