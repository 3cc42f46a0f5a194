"""The graph at the size of the published study: how long its definitions take to load and to be checked.

Each figure is the time of a complete process, imports included: the median of the rounds.

    python benchmarks/graph.py [--rounds 3] [--study studies/finephrase.yaml]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.study.paths import REPOSITORY, Paths

LOAD = "from finephrase_dagster.definitions import defs; defs.get_repository_def()"


def main() -> None:
    """Prints the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--study", default="studies/finephrase.yaml")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as data:
        place = Paths(data=Path(data), study=REPOSITORY / arguments.study)
        graph = list(items(read_lineage(place)))
        environment = {
            **os.environ,
            "FINEPHRASE_STUDY": arguments.study,
            "FINEPHRASE_DATA": data,
            "DAGSTER_HOME": str(REPOSITORY / "dagster_home"),
        }
        commands = {
            "load_seconds": [sys.executable, "-c", LOAD],
            "check_defs_seconds": [str(Path(sys.executable).with_name("dg")), "check", "defs"],
            "plan_seconds": [sys.executable, "-m", "finephrase_dagster.commands.main", "plan", "--json"],
        }
        seconds = {name: median(command, environment, arguments.rounds) for name, command in commands.items()}
    figures = {
        **seconds,
        "assets": len({item.asset for item in graph}),
        "partitions": len(graph),
        "largest_fan_in": max(len(item.needs) for item in graph if item.name != "results/leaderboard"),
        "rounds": arguments.rounds,
    }
    print(json.dumps(figures))


def median(command: list[str], environment: dict[str, str], rounds: int) -> float:
    """Seconds of a command, the median of some runs."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return round(statistics.median(taken), 2)


if __name__ == "__main__":
    main()
