"""Jobs: one an asset, since one Dagster job takes assets of one set of partitions; named after what they do."""

from __future__ import annotations

import dagster as dg

from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.logs import JOB
from finephrase_dagster.orchestration.partitions import PLAN


def build_jobs(lineage: Lineage) -> list[dg.UnresolvedAssetJobDefinition]:
    """A job for every asset of the study, in the order of the stages."""
    assets = dict.fromkeys(["/".join(PLAN.path), *(item.asset for item in items(lineage))])
    return [
        dg.define_asset_job(
            job_of(asset), selection=dg.AssetSelection.assets(asset.split("/")), description=f"Makes {asset}."
        )
        for asset in assets
    ]


def job_of(asset: str) -> str:
    """The name of an asset's job; no other definition may have it."""
    return f"{JOB}{asset.replace('/', '__')}"
