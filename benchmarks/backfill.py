"""Measure a backfill of 200 partitions through Dagster's daemon, and the share of this project's code.

The study has 200 prompts over a few documents; its completions come from a server that answers at once, so that only
the pipeline is measured. The daemon runs with the usual `dagster_home/dagster.yaml`. The time is from the request for
the backfill to its end; it includes waiting twice for the daemon, which looks for work every 30 s. The share of this
project's code is the step's time minus that of an asset with as many partitions that only logs one event for each.

    python benchmarks/backfill.py [--partitions 200] [--documents 4]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import yaml
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from instant_server import InstantServer
from load import write_documents
from random_model import write_model

from finephrase_dagster.orchestration.partitions import TEMPLATE
from finephrase_dagster.study.paths import REPOSITORY

TARGET_SECONDS, TARGET_OWN = 90.0, 0.05
LONGEST = 600
CELL, BARE = dg.AssetKey(["synthetic", "instant__documents"]), dg.AssetKey("bare")
PROMPT = """---
name: {name}
family: own
format: {name}
origin: benchmark
document: first
check: prose
version: 1
description: One of many.
---
[[DOCUMENT]]

Restate the text above in the way number {number}.
"""


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--documents", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name, InstantServer(words=60) as server:
        root = Path(name)
        names = write_study(root, arguments.partitions, arguments.documents)
        os.environ.update(BENCHMARK_ROOT=name, BENCHMARK_ENDPOINT=server.url, DAGSTER_HOME=str(root / "dagster_home"))
        make_inputs()
        with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance, daemon(root, instance):
            bare = backfill(instance, BARE, names)
            ours = backfill(instance, CELL, names)
            requests = server.counts().requests
            made = len(list((root / "data").glob("artifacts/synthetic/*/__meta__/manifest.json")))
    if made != arguments.partitions:
        raise RuntimeError(f"{made} of {arguments.partitions} partitions were made")
    own = max(0.0, ours["step_seconds"] - bare["step_seconds"]) / arguments.partitions
    figures = {
        **ours,
        "bare": bare,
        "own_seconds_a_partition": round(own, 4),
        "requests": requests,
        "targets_met": {
            "seconds": ours["seconds"] <= TARGET_SECONDS,
            "own_seconds_a_partition": own <= TARGET_OWN,
        },
    }
    print(json.dumps({**figures, **vars(arguments), "cores": os.cpu_count()}))


def write_study(root: Path, partitions: int, documents: int) -> list[str]:
    """Write prompts, documents, a model and the study; return the names of the prompts."""
    (root / "prompts").mkdir()
    names = [f"way_{number}" for number in range(partitions)]
    for number, name in enumerate(names):
        text = PROMPT.format(name=name, number=number)
        (root / "prompts" / f"{name}.md").write_text(text, encoding="utf-8")
    write_documents(root / "documents.jsonl", documents, 1000)
    write_model(root / "model")
    demo = yaml.safe_load((REPOSITORY / "studies" / "demo.yaml").read_text(encoding="utf-8"))
    study = {
        "name": "backfill",
        "description": "Many partitions of little work.",
        "prompts": names,
        "sources": {"documents": {"kind": "files", "paths": [str(root / "documents.jsonl")]}},
        "generators": {
            "instant": {"model": str(root / "model"), "context": 1024, "max_tokens": 64, "sampling": {"seed": 0}}
        },
        "cells": [{"generator": "instant", "source": "documents"}],
        "gates": demo["gates"],
    }
    (root / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    (root / "dagster_home").mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", root / "dagster_home")
    return names


def make_inputs() -> None:
    """Materialize corpus and model, which are not measured."""
    import backfill_location

    defs, lineage = backfill_location.defs, backfill_location.lineage
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
        for job, partition in (("make__sources__corpus", "documents"), ("make__generators__model", "instant")):
            done = defs.resolve_job_def(job).execute_in_process(instance=instance, partition_key=partition)
            if not done.success:
                raise RuntimeError(f"{job} failed")
    assert lineage.source("documents").complete


@contextmanager
def daemon(root: Path, instance: dg.DagsterInstance) -> Iterator[None]:
    """Run Dagster's daemon on the code location; it is ready once its first sensor has observed the prompts."""
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run"]
    command += ["-f", str(Path(__file__).with_name("backfill_location.py"))]
    with (root / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=log, stderr=log, start_new_session=True)
        try:
            began = time.monotonic()
            while not instance.fetch_observations(TEMPLATE, limit=1).records:
                if process.poll() is not None or time.monotonic() - began > LONGEST:
                    raise RuntimeError((root / "daemon.log").read_text()[-3000:])
                time.sleep(0.2)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def backfill(instance: dg.DagsterInstance, key: dg.AssetKey, names: list[str]) -> dict[str, float]:
    """Request a backfill of all partitions in one run, as the web UI does, and wait for its end."""
    import backfill_location

    graph = backfill_location.defs.resolve_asset_graph()
    asked = PartitionBackfill.from_asset_partitions(
        backfill_id=uuid.uuid4().hex[:8],
        asset_graph=graph,
        partition_names=names,
        asset_selection=[key],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    began = time.monotonic()
    instance.add_backfill(asked)
    while (found := instance.get_backfill(asked.backfill_id)) and found.status not in (
        BulkActionStatus.COMPLETED_SUCCESS,
        BulkActionStatus.COMPLETED_FAILED,
        BulkActionStatus.FAILED,
    ):
        if time.monotonic() - began > LONGEST:
            raise RuntimeError(f"the backfill is {found.status} after {LONGEST} s")
        time.sleep(0.2)
    seconds = time.monotonic() - began
    if found is None or found.status != BulkActionStatus.COMPLETED_SUCCESS:
        raise RuntimeError(f"the backfill ended as {found.status if found else None}: {found.error if found else None}")
    records = instance.get_run_records(dg.RunsFilter(tags={"dagster/backfill": asked.backfill_id}))
    (record,) = records
    (step,) = instance.get_run_step_stats(record.dagster_run.run_id)
    if not (record.end_time and step.start_time and step.end_time):
        raise RuntimeError("the run did not end")
    return {
        "seconds": round(seconds, 2),
        "runs": len(records),
        "run_seconds": round(record.end_time - record.create_timestamp.timestamp(), 2),
        "step_seconds": round(step.end_time - step.start_time, 2),
    }


if __name__ == "__main__":
    main()
