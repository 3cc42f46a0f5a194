"""The code location that `backfill.py` loads: its study, whose completions come from the instant server; and a peer.

The peer is an asset of as many partitions that does nothing but log an event for each: what Dagster itself takes.
"""

import os
from pathlib import Path

import dagster as dg

from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.study.paths import Paths

root = Path(os.environ["BENCHMARK_ROOT"])
endpoints = (os.environ["BENCHMARK_ENDPOINT"],)
paths = Paths(data=root / "data", study=root / "study.yaml", prompts=root / "prompts", endpoints=endpoints)
lineage = read_lineage(paths)


@dg.multi_asset(
    specs=[dg.AssetSpec("bare", skippable=True)],
    partitions_def=dg.StaticPartitionsDefinition(list(lineage.study.prompts)),
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def bare(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
    for partition in context.partition_keys:
        context.log_event(dg.AssetMaterialization("bare", partition=partition))
    yield from ()


defs = dg.Definitions.merge(build_defs(lineage), dg.Definitions(assets=[bare]))
