"""lighteval's own command on our custom-tasks module, against our scores in process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from finephrase_dagster.evaluate.evaluation import evaluate_checkpoint
from finephrase_dagster.study.paths import REPOSITORY
from test_evaluate_checkpoint import ALL_TASKS, SUITE, samples
from test_evaluate_engine import trained_checkpoint

EVALUATE = REPOSITORY / "finephrase_dagster" / "evaluate"


def lighteval(folder: Path, checkpoint: Path, tasks: str, **environment: str) -> dict[str, list[dict[str, Any]]]:
    """Run the command of docs/evaluation.md offline; return the details of each task's items."""
    (folder / "student").symlink_to(checkpoint)
    settings = f"dtype=float32,add_special_tokens=False,batch_size=64,cache_dir={folder / 'cache'}"
    done = subprocess.run(
        [
            Path(sys.executable).parent / "lighteval",
            "accelerate",
            f"model_name=student,{settings}",
            tasks,
            "--custom-tasks",
            EVALUATE / "lighteval_tasks.py",
            "--output-dir",
            "results",
            "--save-details",
        ],
        cwd=folder,
        env=os.environ
        | environment
        | {
            "PYTHONPATH": f"{REPOSITORY}:{EVALUATE / 'lighteval_startup'}",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "home"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    details = {}
    for path in (folder / "results" / "details").rglob("*.parquet"):
        task = path.name.removeprefix("details_finephrase:").split("|")[0]
        details[task] = pq.read_table(path).to_pylist()
    return details


def item_scores(details: Mapping[str, list[dict[str, Any]]]) -> dict[tuple[str, str], float]:
    return {
        (task, row["doc"]["specific"]["item"]): row["metric"]["prob_norm_token"]
        for task, rows in details.items()
        for row in rows
    }


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("student") / "model")


@pytest.mark.slow
def test_lighteval_gives_our_score_of_each_item_of_all_benchmarks(student: Path, tmp_path: Path) -> None:
    """The context of 96 tokens is so small that examples are dropped and long questions are cut."""
    evaluate_checkpoint(student, tmp_path / "ours", evaluation=ALL_TASKS, batch_size=8)
    ours = {(sample["task"], sample["item"]): sample["prob_norm_token"] for sample in samples(tmp_path / "ours")}
    theirs = item_scores(lighteval(tmp_path, student, "finephrase|3", FINEPHRASE_SAMPLES="6"))
    assert {task for task, _ in theirs} == set(SUITE)
    assert len(theirs) == len(ours) == 13 * 6
    assert theirs == pytest.approx(ours, abs=1e-5)
    assert max(ours.values()) > 0.2


@pytest.mark.slow
def test_lighteval_runs_the_named_benchmarks_with_the_named_number_of_examples(student: Path, tmp_path: Path) -> None:
    evaluation = ALL_TASKS.model_copy(update={"tasks": ("gsm8k", "arc_cf:easy"), "shots": 1, "samples": 1000})
    evaluate_checkpoint(student, tmp_path / "ours", evaluation=evaluation, batch_size=8)
    ours = {(sample["task"], sample["item"]): sample["prob_norm_token"] for sample in samples(tmp_path / "ours")}
    details = lighteval(tmp_path, student, "finephrase:gsm8k|1,finephrase:arc_cf:easy|1")
    assert item_scores(details) == pytest.approx(ours, abs=1e-5)


@pytest.mark.slow  # importing lighteval takes about ten seconds
def test_the_metric_takes_the_best_gold_and_ignores_the_other_choices() -> None:
    from lighteval.metrics import apply_metric
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    from finephrase_dagster.evaluate.lighteval_tasks import prob_norm_token

    doc = Doc(query="Q", choices=[" wrong", " long gold", " gold"], gold_index=[1, 2])
    # Padding (-1) is no token: the long gold has 4, the short one 2.
    response = ModelResponse(
        logprobs=[-0.01, -2.0, -3.0], output_tokens=[[5, -1, -1, -1], [1, 2, 3, 4], [9, 8, -1, -1]]
    )
    (value,) = apply_metric([response], [doc], [prob_norm_token()])
    assert value == {"prob_norm_token": pytest.approx(math.exp(-0.5))}
