"""The early stop: only the best of comparable students are trained to their end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.study.artifact import Product
from finephrase_dagster.study.graph import STAGES, Item, items, state
from finephrase_dagster.study.lineage import Lineage, StoppedEarly
from finephrase_dagster.study.places import Places
from finephrase_dagster.study.plan import plan
from finephrase_dagster.study.spec import Study
from installation import Installation, small_study
from test_plan import FACTS

STOP = {"step": 100, "keep": 0.4}


def stopping(lineage: Lineage, **fields: Any) -> Lineage:
    return Lineage(
        study=Study.model_validate(lineage.study.model_dump() | {"early_stop": STOP} | fields), places=lineage.places
    )


def publish(item: Item, **facts: Any) -> None:
    def make(folder: Path) -> Product:
        (folder / "content.txt").write_text(item.name)
        return Product(files=[folder / "content.txt"], facts={**FACTS.get(item.stage, {}), **facts})

    item.artifact().made_by(make)


def scored(lineage: Lineage) -> None:
    """Publishes everything up to the early scores: a mixture's is the larger the later it stands in the study."""
    mixtures = list(lineage.study.mixtures)
    for item in items(lineage):
        if STAGES.index(item.stage) <= STAGES.index("early"):
            run = lineage.study.student_runs.get(item.partition or "")
            publish(item, macro=mixtures.index(run.mixture) / 10 if run else None)


def status(lineage: Lineage) -> dict[str, str]:
    return {item.name: state(item).status for item in items(lineage)}


def test_of_five_comparable_students_the_best_two_go_on(lineage: Lineage) -> None:
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


def test_a_stopped_run_says_by_which_score(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    with pytest.raises(StoppedEarly, match="was stopped at step 100: its macro score is number 5 of 5, and 2 go on"):
        study.checkpoint("readmes_raw__nano__data0_model0")


def test_before_all_are_scored_nobody_goes_on(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    run = "formats_and_raw__nano__data0_model0"
    (study.early_scores("readmes_raw__nano__data0_model0").folder / "manifest.json").unlink()
    found = status(study)
    assert found[f"training/checkpoint/{run}"] == "waiting"
    assert found["training/checkpoint/formats_and_raw__nano__data1_model1"] == "missing"


def test_the_stop_is_no_identity_of_a_student(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    run = "formats_and_raw__nano__data0_model0"
    assert study.checkpoint(run).fingerprint == lineage.checkpoint(run).fingerprint


def test_a_plan_states_the_expected_regret_and_prices_those_that_go_on(lineage: Lineage) -> None:
    whole, stopped = plan(lineage).as_json(), plan(stopping(lineage)).as_json()
    assert any("early_stop: 40 % of 10 students go on after 100 steps" in warning for warning in stopped["warnings"])
    assert any("rank correlation 0.90" in warning for warning in stopped["warnings"])
    early = stopped["stages"]["early"]["input_tokens"]
    finishing = stopped["stages"]["training"]["input_tokens"]
    training = whole["stages"]["training"]["input_tokens"]
    assert early + finishing == pytest.approx(early + 0.4 * (training - early), rel=0.01)


def test_after_the_decision_a_plan_counts_nothing_for_stopped_runs(lineage: Lineage) -> None:
    study = stopping(lineage)
    scored(study)
    found = plan(study).as_json()
    assert found["stages"]["training"]["partitions"] == 4
    assert sum(item["state"] == "stopped" for item in found["items"]) == 2 * 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_stop": {"step": 312, "keep": 0.5}}, "312 is not before the end of the shortest run, 312 steps"),
        ({"trainer": "nanotron"}, "nanotron trains without a stop"),
        ({"early_stop": {"step": 1, "keep": 1.0}}, "keep"),
    ],
)
def test_a_stop_that_makes_no_sense_is_refused(lineage: Lineage, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stopping(lineage, **fields)


@pytest.mark.slow
def test_a_study_with_an_early_stop_trains_the_best_alone_to_their_end(own: Installation) -> None:
    fields = small_study()
    del fields["runs"]
    fields["evaluation"].pop("every")
    fields["early_stop"] = {"step": 8, "keep": 0.5}
    own.write(fields)
    outcome, said = own.materialize()
    assert outcome.complete, outcome.failed
    lineage = Lineage.read(Places(data=own.places.data, study=own.study, prompts=own.places.prompts))
    (winner,) = lineage.finishing_runs()
    macro = {run: lineage.early_scores(run).manifest()["macro"] for run in lineage.study.student_runs}
    assert winner == max(macro, key=lambda run: macro[run])
    assert lineage.checkpoint(winner).manifest()["resumed_from"] == 8
    rows = json.loads((lineage.leaderboard().folder / "leaderboard.json").read_text())
    assert [row["mixture"] for row in rows] == [lineage.study.student_runs[winner].mixture]
    assert any("was stopped at step 8" in line for line in said)
    assert own.materialize()[0].made == []
