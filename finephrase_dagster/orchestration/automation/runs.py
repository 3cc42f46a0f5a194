"""Runs and items: which items of the graph a Dagster run makes, and which are running or queued now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.orchestration.jobs import job_of

UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


class Partitions:
    """The assets of a study with their partitions, in the order that partition ranges follow."""

    def __init__(self, graph: Iterable[Item]) -> None:
        self._of: dict[str, list[str]] = {}
        self._stages: dict[str, str] = {}
        for item in graph:
            self._stages[item.asset] = item.stage
            self._of.setdefault(item.asset, []).extend([item.partition] if item.partition else [])
        self._jobs = {job_of(asset): asset for asset in self._of}

    def of(self, asset: str) -> Sequence[str]:
        return self._of[asset]

    def assets(self, run: dg.DagsterRun) -> list[str]:
        """Return the assets that a run makes."""
        if run.asset_selection:
            return sorted("/".join(key.path) for key in run.asset_selection)
        return [self._jobs[run.job_name]] if run.job_name in self._jobs else []

    def names(self, run: dg.DagsterRun) -> set[str]:
        """Return the names of the items that a run makes."""
        return {
            f"{asset}/{partition}" if partition else asset
            for asset in self.assets(run)
            for partition in partitions_of(run.tags, self._of.get(asset, ())) or [""]
        }

    def runs(self, asset: str, partitions: Iterable[str]) -> list[list[str]]:
        """Divide partitions of an asset into runs.

        A run that rephrases makes a range without gaps, whose prompts share an engine; any other makes one partition.
        """
        if self._stages[asset] != "synthetic":
            return [[partition] for partition in partitions]
        chosen = set(partitions)
        ranges: list[list[str]] = [[]]
        for partition in self._of[asset]:
            if partition in chosen:
                ranges[-1].append(partition)
            else:
                ranges.append([])
        return [partitions for partitions in ranges if partitions]


def partitions_of(tags: Mapping[str, str], ordered: Sequence[str]) -> list[str]:
    """Return the partitions that a run's tags name; none for an asset without partitions."""
    if one := tags.get(PARTITION_NAME_TAG):
        return [one]
    first, last = tags.get(ASSET_PARTITION_RANGE_START_TAG), tags.get(ASSET_PARTITION_RANGE_END_TAG)
    if first is None or last is None:
        return []
    if first not in ordered or last not in ordered:
        return [first] if first == last else [first, last]
    return list(ordered[ordered.index(first) : ordered.index(last) + 1])


def range_tags(partitions: Sequence[str]) -> dict[str, str]:
    """Return the tags of a run over a range of partitions."""
    return {ASSET_PARTITION_RANGE_START_TAG: partitions[0], ASSET_PARTITION_RANGE_END_TAG: partitions[-1]}


def in_flight(instance: dg.DagsterInstance, partitions: Partitions, graph: BaseAssetGraph) -> set[str]:
    """Return the names of all items that are running or queued, whoever launched them."""
    runs = instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))
    names = {name for run in runs for name in partitions.names(run)}
    requested = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING])
    for backfill in instance.get_backfills(filters=requested):
        if not backfill.is_asset_backfill:
            continue
        for key, partition in backfill.get_asset_backfill_data(graph).target_subset.iterate_asset_partitions():
            asset = "/".join(key.path)
            names.add(f"{asset}/{partition}" if partition else asset)
    return names
