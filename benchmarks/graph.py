"""The graph at three sizes: how long its items, states, plan and code location take, with nothing and everything there.

The studies have cells on embedded sources, mixtures with shares of each dataset, and two students per mixture. They are
complete when each item has a manifest of the usual size. Each measurement is a process of its own.

    python benchmarks/graph.py [--items 1000 10000 50000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from finephrase_dagster.artifacts.artifact import MANIFEST, build_manifest
from finephrase_dagster.artifacts.graph import items, states
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.plan.plan import plan
from finephrase_dagster.study.paths import REPOSITORY, Paths

SHARES = [0.1, 0.25, 0.5, 0.75, 0.9]
SOURCES = 4
PER_DATASET = 3 + len(SHARES) * (1 + 2 * 2)
"""A dataset has an audit and tokens; a mixture per share, each with two students and their scores."""
LOAD = "from finephrase_dagster.definitions import defs; defs.get_repository_def()"
GATE = {"value": 0.1, "threshold": 0.2, "bound": "at most", "blocking": True, "passed": True, "detail": "x" * 80}
RUN = {"completion_tokens": 9_000, "tokens_per_second": 300.0, "gpus": 0}
FACTS: dict[str, dict[str, Any]] = {
    "sources": {"rows": 100, "tokens": 50_000, "text_bytes": 200_000, "dropped": {}, "order": "0"},
    "generators": {"sampling": {"temperature": 1.0}, "parameters": 4_000_000},
    "synthetic": {"completed": 90, "completion_tokens": 9_000, "run": RUN},
    "audits": {"passed": True, "gates": [{"name": f"gate_{number}", **GATE} for number in range(17)]},
    "training": {"tokens": 160_000, "tokens_per_second": 8e3, "gpus": 0, "curve": [[step, 3.0] for step in range(50)]},
    "evaluation": {"macro": 0.3, "tasks": {f"task_{number}": {"mean": 0.2, "n": 1_000} for number in range(12)}},
}


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 10_000, 50_000], help="about so many items")
    parser.add_argument("--measure", type=Path, nargs=2, metavar=("STUDY", "DATA"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    figures = {}
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as root:
        for size in arguments.items:
            study, data = Path(root, f"{size}.yaml"), Path(root, f"data-{size}")
            study.write_text(yaml.safe_dump(study_of(size)), encoding="utf-8")
            empty = measured(study, data)
            complete(study, data)
            figures[str(size)] = {
                "code_location_processor_seconds": code_location(study, data),
                "empty": empty,
                "complete": measured(study, data),
            }
            print(f"{size:,} items: {figures[str(size)]}", flush=True)
    print(json.dumps(figures))


def study_of(size: int) -> dict[str, Any]:
    """Return the fields of a study with about so many items."""
    fields = yaml.safe_load((REPOSITORY / "studies" / "demo.yaml").read_text(encoding="utf-8"))
    del fields["mixtures"]
    names = [f"generator_{number}" for number in range(max(1, round(size / PER_DATASET / 4 / SOURCES)))]
    sources = [f"source_{number}" for number in range(SOURCES)]
    grid = {"name": "{generator}_{source}_{prompt}_{percent}", "datasets": ["*"], "mix_in": "{source}"}
    return fields | {
        "name": "large",
        "sources": {name: {"kind": "embedded", "corpus": "package_readmes"} for name in sources},
        "generators": {
            name: fields["generators"]["rephraser"] | {"max_tokens": 100 + number} for number, name in enumerate(names)
        },
        "cells": [{"generators": names, "sources": sources}],
        "mixture_grids": [{**grid, "shares": SHARES, "tokens": 160_000}],
        "tokenizer": fields["tokenizer"] | {"sources": sources[:1]},
    }


def complete(study: Path, data: Path) -> None:
    """Write the manifest of every item."""
    files = [{"path": f"part-{number}.parquet", "bytes": 5_000, "sha256": "0" * 64} for number in range(4)]
    for item in items(read_lineage(Paths(data=data, study=study)).snapshot()):
        artifact = item.artifact()
        (artifact.folder / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
        manifest = build_manifest(artifact.recipe, FACTS.get(item.stage, {}), files)
        (artifact.folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        artifact.label()


def measured(study: Path, data: Path) -> dict[str, Any]:
    """Return the figures of `measure`, from a process of its own."""
    command = [sys.executable, __file__, "--measure", str(study), str(data)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(study: Path, data: Path) -> dict[str, Any]:
    """Return the time of the states and of a plan, and the memory that they take."""
    started = time.perf_counter()
    lineage = read_lineage(Paths(data=data, study=study))
    graph = {item.name: item for item in items(lineage.snapshot())}
    listed = time.perf_counter()
    found = states(graph)
    known = time.perf_counter()
    plan(lineage).as_json()
    return {
        "items": len(graph),
        "current": sum(state.status == "current" for state in found.values()),
        "list_seconds": round(listed - started, 2),
        "state_ms_per_item": round(1e3 * (known - listed) / len(graph), 4),
        "plan_seconds": round(time.perf_counter() - known, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def code_location(study: Path, data: Path) -> float:
    """Return the seconds of processor time that a process takes to load the code location, imports included."""
    environment = {
        **os.environ,
        "FINEPHRASE_STUDY": str(study),
        "FINEPHRASE_DATA": str(data),
        "DAGSTER_HOME": str(REPOSITORY / "dagster_home"),
    }
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    subprocess.run([sys.executable, "-c", LOAD], cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    return round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before, 2)


if __name__ == "__main__":
    main()
