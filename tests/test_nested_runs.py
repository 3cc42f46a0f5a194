"""The runs of a study in MLflow: one parent per arm, one current run per student, whatever happens to either."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import CHECKPOINT, ItemKey
from resources.student_record import RunDescription, StudentRecord, UsedDataset
from resources.tracking import Tracking
from store import STORE

pytestmark = pytest.mark.slow


def at(root: Path) -> Tracking:
    return Tracking(uri=STORE, experiment=str(root), artifacts=str(root / "artifacts"), web_url="", patience=60)


def record(
    root: Path, mixture: str = "faq", seed: int = 0, *, macro: float | None = 0.5, recipe: int = 0, **more: Any
) -> StudentRecord:
    """Return a student of a mixture; `current` are the mixtures that the study has."""
    mixtures = more.pop("current", ["faq", "raw"])
    name = f"{mixture}__nano__{seed}"
    content = {"recipe": recipe, "seed": seed, "of": more.pop("of", mixture)}
    points = [("loss", 1, 2.0), ("loss", 2, 1.0), ("steps", 2, 2.0)]
    points += [] if macro is None else [("macro", 1, macro / 2), ("macro", 2, macro), ("micro", 2, macro / 4)]
    return StudentRecord(
        artifact=Artifact(key=ItemKey(kind=CHECKPOINT, run=name), recipe=content, root=root),
        about=RunDescription(
            arm=f"{mixture}__nano",
            tags={"finephrase.mixture": mixture},
            params={"layers": 2, "data_seed": seed},
            current={
                part for each in mixtures for part in (f"{each}__nano", *(f"{each}__nano__{n}" for n in range(9)))
            },
            datasets=[UsedDataset(name="docs", digest="a" * 64, folder=root, profile={"num_rows": 3})],
        ),
        points=points,
        files={"mixture.json": "{}"},
        shared_files={"audits/docs.html": "<p>passed"},
        **more,
    )


def named(tracking: Tracking) -> dict[str, Any]:
    """Return the runs by name, and check that no name occurs twice and that every student has a parent."""
    client = tracking.client()
    experiment = client.get_experiment_by_name(tracking.experiment)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    by_name = {run.info.run_name: run for run in runs}
    assert len(by_name) == len(runs)
    ids = {run.info.run_id for run in runs if run.data.tags["finephrase.kind"] == "arm"}
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs if run.info.run_id not in ids} <= ids
    return by_name


def test_an_arm_has_the_mean_and_spread_of_its_seeds_their_data_and_the_files_of_its_mixture(tmp_path: Path) -> None:
    tracking, macros = at(tmp_path), [0.5, 0.6, 0.7]
    tracking.complete([record(tmp_path, seed=seed, macro=macro) for seed, macro in enumerate(macros)])
    runs = named(tracking)
    assert sorted(runs) == ["faq__nano", "faq__nano__0", "faq__nano__1", "faq__nano__2"]
    arm, student = runs["faq__nano"], runs["faq__nano__0"]
    figures = arm.data.metrics
    assert (figures["seeds"], figures["macro"]) == (3, pytest.approx(fmean(macros)))
    assert figures["macro_sd"] == pytest.approx(stdev(macros))
    assert figures["micro"] == pytest.approx(fmean(macros) / 4)
    assert (arm.info.status, arm.data.params) == ("FINISHED", {"layers": "2"})
    assert student.data.params == {"layers": "2", "data_seed": "0"}
    history = tracking.client().get_metric_history(student.info.run_id, "macro")
    assert [(each.step, each.value) for each in history] == [(1, 0.25), (2, 0.5)]
    for run in (arm, student):
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("docs", "a" * 16)
    assert [file.path for file in tracking.client().list_artifacts(arm.info.run_id, "audits")] == ["audits/docs.html"]
    assert [file.path for file in tracking.client().list_artifacts(student.info.run_id)] == ["mixture.json"]


def test_recording_again_changes_nothing_and_later_scores_complete_the_same_run(tmp_path: Path) -> None:
    tracking = at(tmp_path)
    first = tracking.complete([record(tmp_path, macro=None)])
    assert named(tracking)["faq__nano"].data.metrics["seeds"] == 0
    assert tracking.complete([record(tmp_path)]) == first
    before = named(tracking)
    assert before["faq__nano"].data.metrics["macro"] == 0.5
    assert tracking.complete([record(tmp_path)]) == first
    after = named(tracking)
    for name, run in before.items():
        assert after[name].to_dictionary() == run.to_dictionary()
    history = tracking.client().get_metric_history(first[0], "loss")
    assert [each.step for each in history] == [1, 2]


def test_a_retrained_student_supersedes_the_earlier_one_and_an_earlier_recipe_comes_back(tmp_path: Path) -> None:
    tracking = at(tmp_path)
    (old,) = tracking.complete([record(tmp_path, macro=0.5)])
    (new,) = tracking.complete([record(tmp_path, macro=0.7, recipe=1)])
    runs = named(tracking)
    assert runs["faq__nano__0 (superseded)"].info.run_id == old
    assert runs["faq__nano__0 (superseded)"].data.tags["finephrase.superseded"] == new
    assert (runs["faq__nano"].data.metrics["macro"], runs["faq__nano"].data.metrics["seeds"]) == (0.7, 1)
    assert tracking.complete([record(tmp_path, macro=0.5)]) == [old]
    runs = named(tracking)
    assert "finephrase.superseded" not in runs["faq__nano__0"].data.tags
    assert runs["faq__nano__0 (superseded)"].info.run_id == new
    assert runs["faq__nano"].data.metrics["macro"] == 0.5


def test_an_arm_without_scores_has_no_mean(tmp_path: Path) -> None:
    tracking = at(tmp_path)
    tracking.complete([record(tmp_path)])
    tracking.complete([record(tmp_path, macro=None, recipe=1)])
    figures = named(tracking)["faq__nano"].data.metrics
    assert math.isnan(figures["macro"])
    assert figures["seeds"] == 0
    tracking.complete([record(tmp_path, macro=0.9, recipe=1)])
    assert named(tracking)["faq__nano"].data.metrics["macro"] == 0.9


def test_a_renamed_mixture_keeps_its_runs_and_equal_mixtures_have_their_own(tmp_path: Path) -> None:
    tracking = at(tmp_path)
    before = tracking.complete([record(tmp_path, seed=seed) for seed in (0, 1)])
    arm = named(tracking)["faq__nano"].info.run_id
    renamed = [record(tmp_path, "questions", seed, of="faq", current=["questions"]) for seed in (0, 1)]
    assert tracking.complete(renamed) == before
    runs = named(tracking)
    assert sorted(runs) == ["questions__nano", "questions__nano__0", "questions__nano__1"]
    assert runs["questions__nano"].info.run_id == arm
    assert runs["questions__nano"].data.tags["finephrase.mixture"] == "questions"
    both = ["questions", "twin"]
    tracking.complete([record(tmp_path, "twin", 0, of="faq", current=both)])
    assert {"twin__nano", "twin__nano__0", "questions__nano__0"} <= named(tracking).keys()


def test_runs_that_the_study_has_no_longer_are_superseded_until_they_come_back(tmp_path: Path) -> None:
    tracking = at(tmp_path)
    tracking.complete([record(tmp_path)])
    with tracking.runs() as runs:
        runs.retire({"raw__nano"})
    assert sorted(named(tracking)) == ["faq__nano (superseded)", "faq__nano__0 (superseded)"]
    tracking.complete([record(tmp_path)])
    assert sorted(named(tracking)) == ["faq__nano", "faq__nano__0"]


def work(root: Path, seeds: list[int]) -> None:
    for seed in seeds:
        at(root).complete([record(root, seed=seed, macro=seed / 10)])


def test_processes_that_record_at_once_create_one_arm_and_one_run_per_student(tmp_path: Path) -> None:
    at(tmp_path).client()  # creates the tables, which SQLite cannot do in several processes at once
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(tmp_path, seeds)) for seeds in ([1, 2, 3], [3, 2, 1])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    runs = named(at(tmp_path))
    assert sorted(runs) == ["faq__nano", "faq__nano__1", "faq__nano__2", "faq__nano__3"]
    assert runs["faq__nano"].data.metrics["macro"] == pytest.approx(0.2)
    for seed in (1, 2, 3):
        history = at(tmp_path).client().get_metric_history(runs[f"faq__nano__{seed}"].info.run_id, "loss")
        assert [each.step for each in history] == [1, 2]


def train_and_die(root: Path) -> None:
    """Begin a run like a training, then die as by the kernel's out-of-memory killer."""
    one = record(root)
    with at(root).runs() as runs:
        runs.begin(one.artifact, one.about)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_run_of_a_killed_training_is_marked_and_completed_by_the_next(tmp_path: Path) -> None:
    tracking = at(tmp_path)
    tracking.client()
    process = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    killed = named(tracking)["faq__nano__0"]
    assert (killed.info.status, named(tracking)["faq__nano"].info.status) == ("RUNNING", "RUNNING")
    with tracking.runs() as runs:
        mine = runs.begin(record(tmp_path, seed=1).artifact, record(tmp_path, seed=1).about)
    assert tracking.end_orphans() == ["faq__nano__0"]
    assert named(tracking)["faq__nano__0"].info.status == "KILLED"
    assert named(tracking)["faq__nano__1"].info.run_id == mine
    assert named(tracking)["faq__nano__1"].info.status == "RUNNING"  # this process still runs
    assert tracking.complete([record(tmp_path)]) == [killed.info.run_id]
    assert named(tracking)["faq__nano__0"].info.status == "FINISHED"
