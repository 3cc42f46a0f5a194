"""Jobs: one per asset, because one Dagster job cannot select assets with different partitions."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from finephrase_dagster.orchestration.logs import ASSET_TAG


def build_jobs(assets: Iterable[dg.AssetsDefinition]) -> list[dg.UnresolvedAssetJobDefinition]:
    """Return a job for every asset."""
    return [build_job(asset.key) for asset in assets]


def build_job(asset: dg.AssetKey) -> dg.UnresolvedAssetJobDefinition:
    """Return the job of an asset."""
    name = "/".join(asset.path)
    return dg.define_asset_job(
        job_of(name), selection=[asset], tags={ASSET_TAG: name}, description=f"Materializes {name}."
    )


def job_of(asset: str) -> str:
    """Return the name of the job of an asset; no other definition may have it."""
    return f"make__{asset.replace('/', '__')}"
