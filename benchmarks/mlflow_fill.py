"""How long it takes to fill an empty MLflow store with students: arms, nested runs, curves, datasets and files.

python benchmarks/mlflow_fill.py [--arms 34] [--seeds 3] [--uri http://127.0.0.1:5000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import CHECKPOINT, ItemKey
from resources.student_record import Point, RunDescription, StudentRecord, UsedDataset
from resources.tracking import Tracking

STEPS, SCORES, DATASETS = 100, 21, 4
PAGE = 80_000  # characters of an audit's page


def student(root: Path, arm: int, seed: int) -> StudentRecord:
    points: list[Point] = [(name, step, 1 / step) for name in ("loss", "learning_rate") for step in range(1, STEPS + 1)]
    points += [(f"score_{number}", STEPS, number / SCORES) for number in range(SCORES)]
    points += [("macro", STEPS, (arm + seed / 10) / 100), ("micro", STEPS, 0.5), ("steps", STEPS, STEPS)]
    return StudentRecord(
        artifact=Artifact(
            key=ItemKey(kind=CHECKPOINT, run=f"arm{arm}__{seed}"), recipe={"arm": arm, "seed": seed}, root=root
        ),
        about=RunDescription(
            arm=f"arm{arm}",
            params={f"parameter_{number}": number for number in range(30)},
            datasets=[
                UsedDataset(name=f"d{number}", digest=f"{number:064x}", folder=root, profile={"num_rows": 1})
                for number in range(DATASETS)
            ],
        ),
        points=points,
        files=dict.fromkeys(("mixture.json", "manifest.json", "environment.txt"), "x" * 2000),
        shared_files={f"audits/{number}.html": "x" * PAGE for number in range(DATASETS)},
        seconds=60,
    )


def fill(tracking: Tracking, root: Path, arms: int, seeds: int) -> dict[str, float]:
    """Record all students; return the seconds of clock and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    for arm in range(arms):
        tracking.complete([student(root, arm, seed) for seed in range(seeds)])
    return {
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=34)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--uri", help="an MLflow server; default: a new SQLite file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        uri = given.uri or f"sqlite:///{root}/mlflow.db"
        experiment = f"benchmark {time.time_ns()}"
        tracking = Tracking(uri=uri, experiment=experiment, artifacts=str(root / "files"), web_url="", patience=600)
        tracking.client().search_experiments()  # creates the tables
        first = fill(tracking, root, given.arms, given.seeds)
        again = fill(tracking, root, given.arms, given.seeds)
    print(json.dumps({"students": given.arms * given.seeds, "empty": first, "complete": again}))


if __name__ == "__main__":
    main()
