"""Automation conditions: launch what has become ready, from the audit of a new dataset to the leaderboard.

Dagster's own conditions know which partitions were made, but not by which recipe, so they cannot decide whether all
inputs of a mixture are current. The artifacts on disk can: see `ready` in `artifacts/graph.py`. A partition is
launched when it becomes ready, not as long as it is ready, so a failed partition is not launched again and again.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import dagster as dg

from finephrase_dagster.artifacts.graph import items, ready
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.partitions import STAGE_TAG
from finephrase_dagster.orchestration.placement import priority
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.prompt import PromptError

AUTOMATED = ("audits", "tokens", "mixtures", "early", "training", "evaluation")
"""The stages after the synthetic datasets; each has its own sensor, because runs of one sensor have one priority."""
SECONDS = 30


Recipes = Mapping[str, Mapping[str, str]]
"""The items that can be made: the fingerprints of their recipes by asset and partition ("" without partitions)."""


class Ready(dg.AutomationCondition[dg.AssetKey]):
    """Whether a partition can be made and is not current."""

    def __init__(self, recipes: Callable[[datetime.datetime], Recipes]) -> None:
        self._recipes = recipes

    @property
    def name(self) -> str:
        return "ready"

    @property
    def description(self) -> str:
        return "All its inputs are current, no audit among them failed, and it is missing or stale."

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        return dg.AutomationResult(context, _some(context, self._of(context)))

    def _of(self, context: dg.AutomationContext) -> dict[str, str]:
        """Return the partitions of the asset that can be made, with their fingerprints."""
        return dict(self._recipes(context.evaluation_time).get("/".join(context.key.path), {}))


class NewlyReady(Ready):
    """Whether a partition can be made by a recipe by which it could not be made at the last evaluation.

    This differs from "was not ready before": a partition that failed by one recipe may be ready by the next without
    an evaluation in between.
    """

    @property
    def name(self) -> str:
        return "newly_ready"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        current = self._of(context)
        before = json.loads(context.cursor) if context.cursor else current  # at the first evaluation nothing is new
        # A partition launched at the last evaluation is in progress now: a new recipe of it counts at the next one.
        launched = context.get_previous_requested_subset(context.key)
        if launched is not None and not launched.is_empty:
            keys = [""] if context.partitions_def is None else launched.expensively_compute_partition_keys()
            current |= {key: before[key] for key in keys if key in before and key in current}
        changed = [partition for partition, recipe in current.items() if before.get(partition) != recipe]
        return dg.AutomationResult(context, _some(context, changed), cursor=json.dumps(current))


def _some(context: dg.AutomationContext, partitions: Iterable[str]) -> Any:
    """Return the candidates among some partitions; an asset without partitions has one, named ""."""
    subset, chosen = context.candidate_subset, set(partitions)
    if context.partitions_def is None:
        return subset if chosen else context.get_empty_subset()
    chosen &= subset.expensively_compute_partition_keys()
    return subset.compute_intersection_with_partition_keys(chosen)


def launch_condition(lineage: Lineage, stage: str) -> dg.AutomationCondition[Any] | None:
    """Return the condition on the assets of a stage; None for those up to the synthetic datasets."""
    return _condition(lineage) if stage in AUTOMATED else None


@cache
def _condition(lineage: Lineage) -> dg.AutomationCondition[Any]:
    """Return the condition; it is the same for all assets, so that one evaluation looks at the artifacts once."""
    recipes = _latest(_ready_recipes(lineage))
    newly: dg.AutomationCondition[Any] = NewlyReady(recipes)
    return (
        Ready(recipes)
        & newly.since(dg.AutomationCondition.newly_requested()).with_label("has become ready")
        & ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.any_deps_in_progress()
    )


def build_condition_sensors(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AutomationConditionSensorDefinition]:
    """Return one sensor per stage that automation launches, stopped by default."""
    by_stage: dict[str, list[dg.AssetKey]] = {}
    for asset in assets:
        by_stage.setdefault(asset.tags_by_key[asset.key][STAGE_TAG], []).append(asset.key)

    def names(assets: Iterable[dg.AssetKey]) -> str:
        return ", ".join("/".join(asset.path) for asset in assets)

    return [
        dg.AutomationConditionSensorDefinition(
            name=f"launch_ready_{stage}",
            target=dg.AssetSelection.assets(*by_stage[stage]),
            run_tags=priority(stage),
            minimum_interval_seconds=SECONDS,
            emit_backfills=False,
            use_user_code_server=True,  # the condition is our own class and reads files
            default_status=dg.DefaultSensorStatus.STOPPED,
            description=f"Launches {names(by_stage[stage])} for partitions that have become ready: all their inputs "
            "are current, no audit among them failed, and they are missing or stale.",
        )
        for stage in AUTOMATED
        if stage in by_stage
    ]


def _ready_recipes(lineage: Lineage) -> Callable[[], Recipes]:
    """Return a function that lists what is ready by the study and prompt files on disk; nothing if they are invalid."""

    def recipes() -> Recipes:
        try:
            fresh = read_lineage(lineage.paths).snapshot()
        except (StudyError, PromptError):
            return {}
        by_asset: dict[str, dict[str, str]] = {}
        for item in ready({item.name: item for item in items(fresh)}):
            by_asset.setdefault(item.asset, {})[item.partition or ""] = item.artifact().fingerprint
        return by_asset

    return recipes


def _latest(recipes: Callable[[], Recipes]) -> Callable[[datetime.datetime], Recipes]:
    """Cache the answer for one evaluation, which asks for every asset."""
    answers: dict[datetime.datetime, Recipes] = {}

    def remembered(evaluation: datetime.datetime) -> Recipes:
        if evaluation not in answers:
            answers.clear()
            answers[evaluation] = recipes()
        return answers[evaluation]

    return remembered
