"""Jobs: one per asset, because one Dagster job cannot select assets with different partitions."""

from __future__ import annotations

import dagster as dg

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
