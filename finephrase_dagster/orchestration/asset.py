"""Assets: how every asset of the graph is declared to Dagster.

An asset of `assets/` says what it is (its kind, what it depends on, its description) and how it runs (its placement).
Its key, group, code version and tags follow from the kind and the study.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import dagster as dg

from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.key import AUDIT, EARLY_SCORES, SCORES, Kind
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recipe import scorer_recipe
from finephrase_dagster.artifacts.versions import CLEANING, CODE, TRUNCATION
from finephrase_dagster.orchestration.automation.conditions import launch_condition
from finephrase_dagster.orchestration.partitions import STAGE_TAG, asset_key, cell_tags, static
from finephrase_dagster.orchestration.placement import Placement, preparing
from finephrase_dagster.orchestration.retries import retried
from finephrase_dagster.study.component import Cell
from finephrase_dagster.study.fields import hub_reference

Columns = Mapping[str, tuple[str, str]]
"""The columns of an asset's files: type and description by name."""

UNVERSIONED = {"limit", "paths", "documents", "tokens", "license"}
"""Fields of a source that do not count, or of which only reading the source shows whether its rows change."""


class Check(NamedTuple):
    """An asset check; a blocking one stops what is downstream in the same run."""

    name: str
    description: str
    blocking: bool = False


def stage_asset(
    lineage: Lineage,
    kind: Kind,
    cell: Cell | None = None,
    *,
    description: str,
    kinds: set[str],
    owner: str,
    partitions: Collection[str] = (),
    deps: Iterable[dg.AssetDep] = (),
    columns: Columns | None = None,
    checks: Iterable[Check] = (),
    placement: Placement | None = None,
    single_run: bool = False,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return a decorator that makes a function the body of an asset.

    Args:
        cell: the cell, for an asset that exists once per cell.
        description: Markdown; the first sentence stands alone in the catalogue.
        kinds: technologies, shown as labels.
        owner: the team that looks after it.
        partitions: its partition keys; empty for an asset without partitions.
        placement: where it runs. Default: anywhere, no GPU.
        single_run: whether a backfill materializes all partitions in one run, which logs its own events.
    """
    key = asset_key(kind, cell)
    partitions_def = static(partitions) if partitions else None
    spec = dg.AssetSpec(
        key,
        deps=list(deps),
        description=description,
        group_name=kind.group,
        kinds=kinds,
        owners=[f"team:{owner}"],
        tags={STAGE_TAG: kind.stage, **(cell_tags(lineage, cell) if cell else {})},
        metadata={"dagster/column_schema": _column_schema(columns)} if columns else {},
        code_version=_code_version(lineage, kind, cell),
        automation_condition=launch_condition(lineage, kind.stage),
        skippable=single_run,
    )
    check_specs = [
        dg.AssetCheckSpec(name, asset=key, description=text, blocking=blocking, partitions_def=partitions_def)
        for name, text, blocking in checks
    ]

    def declare(body: Callable[..., Any]) -> dg.AssetsDefinition:
        return dg.multi_asset(
            name="__".join(key.path),
            specs=[spec],
            check_specs=check_specs,
            partitions_def=partitions_def,
            backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
            **(placement or preparing()).arguments,
        )(retried(body))

    return declare


def _code_version(lineage: Lineage, kind: Kind, cell: Cell | None) -> str | None:
    """Return the version of the code and of the settings that all partitions of an asset share.

    Dagster marks an asset as stale when it changes. A cell's settings count for all assets of the cell, because Dagster
    itself would mark only the first of them. Settings of single partitions are versioned by their inputs.
    """
    study, code = lineage.study, CODE.get(kind.code)
    settings: dict[str, Any] = {}
    if cell is not None:
        generator = study.generators[cell.generator]
        settings["generator"] = {
            "sampling": generator.sampling.model_dump(exclude_none=True),
            "engine": distribution_flags(generator.engine),
            "model": hub_reference(generator.model),
            "cleaning": CLEANING,
            "truncation": TRUNCATION,
            **{name: getattr(generator, name) for name in ("context", "max_tokens", "keep_raw", "date")},
            "guided": study.is_guided(cell),
        }
        settings["source"] = study.sources[cell.source].model_dump(exclude=UNVERSIONED)
        most, keep = study.rollouts_of(cell)
        if cell.on_failure == "drop_rows":
            settings["drops"] = study.gates, cell.gates
        if most > 1:
            settings["rollouts"] = most, keep, study.gates, cell.gates
    if kind is AUDIT:
        settings["gates"] = study.gates, cell.gates if cell else {}
        settings["items"] = [sorted(study.evaluation.tasks), study.evaluation.samples] if study.evaluation else None
    if kind in (SCORES, EARLY_SCORES) and (suite := study.evaluation):
        settings["suite"] = {
            "tasks": sorted(suite.tasks),
            "shots": suite.shots,
            "samples": suite.samples,
            **scorer_recipe(suite),
        }
    return f"{code}-{fingerprint(settings)[:SHORT]}" if settings else code


def _column_schema(columns: Columns) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type_, description=text) for name, (type_, text) in columns.items()]
    )
