"""Jobs: one per asset, because one Dagster job cannot select assets with different partitions; their code location."""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.key import ANALYSIS, PLAN, REPORT, SWEEP, VERDICTS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.logs import ASSET_TAG


def build_jobs(lineage: Lineage) -> list[dg.UnresolvedAssetJobDefinition]:
    """Return a job for every asset of the study, in the order of the stages."""
    paths = dict.fromkeys([PLAN.asset_path(), *(item.key.path for item in items(lineage))])
    paths |= {SWEEP.asset_path(): None}
    if lineage.study.mixtures:
        paths |= dict.fromkeys(kind.asset_path() for kind in (VERDICTS, ANALYSIS, REPORT))
    return [build_job(dg.AssetKey(path)) for path in paths]


def build_job(asset: dg.AssetKey) -> dg.UnresolvedAssetJobDefinition:
    """Return the job of an asset."""
    name = "/".join(asset.path)
    return dg.define_asset_job(
        job_of(name), selection=[asset], tags={ASSET_TAG: name}, description=f"Materializes {name}."
    )


def job_of(asset: str) -> str:
    """Return the name of the job of an asset; no other definition may have it."""
    return f"make__{asset.replace('/', '__')}"


LOCATION, MODULE = "finephrase", "finephrase_dagster.definitions"
"""As `workspace.yaml` has them."""


def show_runs_in_location(instance: dg.DagsterInstance) -> None:
    """Make the runs that this process creates runs of the code location: Overview and Jobs show only such runs."""
    target = LoadableTargetOrigin(module_name=MODULE)
    origin = RemoteRepositoryOrigin(ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION), SINGLETON_REPOSITORY_NAME)
    create = instance.create_run_for_job

    def create_in_location(job_def: dg.JobDefinition, **fields: Any) -> dg.DagsterRun:
        return create(job_def, **{**fields, "remote_job_origin": origin.get_job_origin(job_def.name)})

    instance.create_run_for_job = create_in_location  # type: ignore[method-assign,assignment]
