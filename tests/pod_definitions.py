"""A code location for tests of pods: assets that do almost nothing, on the cluster that the environment names."""

import os
import time
from pathlib import Path

import dagster as dg

from finephrase_dagster.orchestration import placement, retries

retries.FIRST_WAIT_SECONDS = 0

MARKS = Path(os.environ["POD_MARKS"])


@dg.multi_asset(specs=[dg.AssetSpec("brief", skippable=True)], **placement.preparing().arguments)
def brief() -> dg.MaterializeResult:
    (MARKS / "brief").touch()
    return dg.MaterializeResult(metadata={"host": os.environ["HOSTNAME"]})


@dg.multi_asset(specs=[dg.AssetSpec("waiting")], **placement.evaluating().arguments)
def waiting() -> dg.MaterializeResult:
    """Wait until the file `finish` exists; each attempt leaves a mark."""
    (MARKS / f"begun-{os.environ['HOSTNAME']}").touch()
    while not (MARKS / "finish").exists():
        time.sleep(0.05)
    return dg.MaterializeResult()


defs = dg.Definitions(
    assets=[brief, waiting],
    jobs=[dg.define_asset_job(f"make_{name}", selection=[name]) for name in ("brief", "waiting")],
    executor=placement.executor(),
)
