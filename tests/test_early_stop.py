"""The early stop: only the best of comparable students are fully trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.graph import Item, items, state
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.artifacts.recorded import recorded_macro
from finephrase_dagster.catalogue import catalogue, read_lineage
from finephrase_dagster.plan.plan import plan
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.study.spec import Study
from finephrase_dagster.study.student import EarlyStop
from installation import Installation, small_study
from test_plan import FACTS

STOP = {"step": 100, "keep": 0.4}


MIXTURES = ("readmes_raw", "reference_raw", "all_formats_and_raw", "faq_and_raw", "formats_and_raw")


@pytest.fixture
def lineage(lineage: Lineage) -> Lineage:
    """The demo with five of its mixtures, later ones of which score higher."""
    fields = lineage.study.model_dump()
    fields["mixtures"] = {name: fields["mixtures"][name] for name in MIXTURES}
    fields["runs"] = None
    return Lineage(study=Study.model_validate(fields, context=catalogue()), paths=lineage.paths)


def stopping(lineage: Lineage, **fields: Any) -> Lineage:
    return Lineage(
        study=Study.model_validate(lineage.study.model_dump() | {"early_stop": STOP} | fields, context=catalogue()),
        paths=lineage.paths,
    )


def publish(item: Item, **facts: Any) -> None:
    def make(folder: Path) -> Contents:
        (folder / "content.txt").write_text(item.name)
        return Contents(files=[folder / "content.txt"], facts={**FACTS.get(item.stage, {}), **facts})

    item.artifact().materialize(make)


def scored(lineage: Lineage) -> None:
    """Publish everything up to the early scores; later mixtures of the study score higher."""
    mixtures = list(lineage.study.mixtures)
    for item in items(lineage.snapshot()):
        if STAGES.index(item.stage) <= STAGES.index("early"):
            run = lineage.study.student_runs.get(item.partition or "")
            publish(item, macro=mixtures.index(run.mixture) / 10 if run else None)


def status(lineage: Lineage) -> dict[str, str]:
    return {item.name: state(item).status for item in items(lineage.snapshot())}


@pytest.mark.slow
def test_the_best_two_of_five_comparable_students_continue(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    found = status(study)
    going_on = [
        f"{mixture}__nano__data{seed}_model{seed}" for mixture in ("faq_and_raw", "formats_and_raw") for seed in (0, 1)
    ]
    assert sorted(study.finishing_runs()) == sorted(going_on)
    for run in study.study.student_runs:
        expected = ("missing", "waiting") if run in going_on else ("stopped", "stopped")
        assert (found[f"training/checkpoint/{run}"], found[f"evaluation/benchmark_scores/{run}"]) == expected


@pytest.mark.slow
def test_a_stopped_run_names_the_score_that_decided(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    reason = "was stopped at step 100: its macro score is number 5 of 5, and only the best 2 continue"
    with pytest.raises(StoppedEarly, match=reason):
        study.checkpoint("readmes_raw__nano__data0_model0")


@pytest.mark.slow
def test_held_out_tasks_do_not_decide_who_continues(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    best, run = "formats_and_raw__nano__data0_model0", "readmes_raw__nano__data0_model0"
    means = {"gsm8k": (0.9, "MATH"), "drop": (0.1, "RC"), "squad_v2": (0.3, "RC"), "arc_cf:challenge": (0.7, None)}
    tasks = {task: {"mean": mean, "category": category} for task, (mean, category) in means.items()}
    for rival in study.study.rivals[run]:
        artifact = study.early_scores(rival)
        (artifact.folder / "__meta__" / "manifest.json").unlink()
        changed = {"gsm8k": {"mean": 0.9 if rival == best else 0.8, "category": "MATH"}}
        changed |= {"drop": {"mean": 0.5, "category": "RC"}} if rival == run else {}
        artifact.materialize(lambda folder, new=changed: Contents(files=[], facts={"macro": 0.5, "tasks": tasks | new}))
    evaluation = lineage.evaluation.model_copy(update={"held_out": ("gsm8k",)})
    spec = study.study.model_copy(update={"evaluation": evaluation})
    held = Lineage(study=spec, paths=study.paths)
    assert held.early_scores(run).fingerprint == study.early_scores(run).fingerprint
    assert held.rank(run)[0] == 1
    assert held.checkpoint(run).fingerprint
    assert recorded_macro(held.early_scores(run)) == 0.5
    assert recorded_macro(held.early_scores(run), {"gsm8k"}) == pytest.approx(0.4)
    assert recorded_macro(held.early_scores(best), {"squad_v2"}) == pytest.approx(0.5)


def test_no_student_continues_before_all_are_scored(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    run = "formats_and_raw__nano__data0_model0"
    (study.early_scores("readmes_raw__nano__data0_model0").folder / "__meta__" / "manifest.json").unlink()
    found = status(study)
    assert found[f"training/checkpoint/{run}"] == "waiting"
    assert found["training/checkpoint/formats_and_raw__nano__data1_model1"] == "missing"


def test_the_early_stop_does_not_affect_a_students_fingerprint(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    run = "formats_and_raw__nano__data0_model0"
    assert study.checkpoint(run).fingerprint == lineage.checkpoint(run).fingerprint


def test_a_plan_states_the_expected_regret_and_the_cost_of_the_students_that_continue(lineage: Lineage) -> None:
    whole, stopped = plan(lineage).as_json(), plan(stopping(lineage)).as_json()
    (warning,) = [warning for warning in stopped["warnings"] if "early_stop" in warning]
    assert warning.startswith("early_stop: 4 of 10 students continue after step 100; in the published study this would")
    assert "rank correlation 0.96" in warning
    assert stopped["stages"]["evaluation"]["wall_hours"] < whole["stages"]["evaluation"]["wall_hours"]
    early = stopped["stages"]["early"]["input_tokens"]
    finishing = stopped["stages"]["training"]["input_tokens"]
    training = whole["stages"]["training"]["input_tokens"]
    assert early + finishing == pytest.approx(early + 0.4 * (training - early), rel=0.01)


def test_after_the_decision_stopped_runs_cost_nothing_in_the_plan(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    found = plan(study).as_json()
    assert found["stages"]["training"]["partitions"] == 4
    assert sum(item["state"] == "stopped" for item in found["items"]) == 2 * 6


def test_the_number_of_students_that_continue_is_rounded_up_to_at_least_one() -> None:
    asked = ((0.5, 2), (0.5, 3), (0.05, 2), (0.07, 100))
    assert [EarlyStop(step=1, keep=keep).going_on(students) for keep, students in asked] == [1, 2, 1, 7]


def test_an_early_stop_without_comparable_students_causes_a_warning(lineage: Lineage) -> None:
    mixtures = {"readmes_raw": lineage.study.mixtures["readmes_raw"].model_dump()}
    alone = stopping(lineage, mixtures=mixtures, runs=None)
    assert any("early_stop: compares no runs" in warning for warning in plan(alone).warnings)


def test_a_stop_that_is_earlier_and_stricter_than_any_published_one_causes_a_warning(lineage: Lineage) -> None:
    strict = stopping(lineage, early_stop={"step": 1, "keep": 0.1})
    assert any("no published figure is as early and as strict" in warning for warning in plan(strict).warnings)


@pytest.mark.slow
@pytest.mark.parametrize("macro", [None, "fast", float("nan"), True])
def test_an_invalid_score_decides_nothing(lineage: Lineage, macro: object) -> None:
    study = stopping(lineage)
    scored(study)
    path = study.early_scores("readmes_raw__nano__data0_model0").folder / "__meta__" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"macro": macro}))
    assert status(study)["training/checkpoint/formats_and_raw__nano__data0_model0"] == "waiting"
    assert plan(study).as_json()["items"]


def test_a_missing_source_causes_a_warning_with_an_early_stop_too(tmp_path: Path) -> None:
    study = read_lineage(Paths(data=tmp_path, study=REPOSITORY / "studies" / "finephrase.yaml"))
    found = plan(stopping(study, early_stop={"step": 1000, "keep": 0.5}))
    assert any("sources.fineweb_edu_lq" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_stop": {"step": 125, "keep": 0.5}}, "125 is not before the end of the shortest run, 125 steps"),
        ({"early_stop": {"step": 1, "keep": 1.0}}, "keep"),
    ],
)
def test_a_contradictory_early_stop_is_refused(lineage: Lineage, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stopping(lineage, **fields)


@pytest.mark.slow
def test_a_study_with_an_early_stop_fully_trains_only_the_best(own: Installation) -> None:
    fields = small_study()
    del fields["runs"]
    fields["evaluation"].pop("every")
    fields["early_stop"] = {"step": 8, "keep": 0.5}
    own.write(fields)
    outcome, messages = own.materialize()
    assert outcome.complete, outcome.failed
    lineage = read_lineage(Paths(data=own.paths.data, study=own.study, prompts=own.paths.prompts))
    (winner,) = lineage.finishing_runs()
    macro = {run: lineage.early_scores(run).manifest()["macro"] for run in lineage.study.student_runs}
    assert winner == max(macro, key=lambda run: macro[run])
    assert lineage.checkpoint(winner).manifest()["resumed_from"] == 8
    rows = json.loads((lineage.leaderboard().folder / "leaderboard.json").read_text())
    assert [row["mixture"] for row in rows] == [lineage.study.student_runs[winner].mixture]
    assert any("was stopped at step 8" in line for line in messages)
    assert own.materialize()[0].made == []
