"""Which trainer a study gets; checkpoints of one trainer never count for another."""

from __future__ import annotations

from typing import Any

import pytest

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.definitions import default_resources
from finephrase_dagster.study.spec import Study
from resources.trainer import NanotronTrainer, StudentTrainer
from test_plan import complete


def trained_by(lineage: Lineage, **fields: Any) -> Lineage:
    return Lineage(
        study=Study.model_validate(lineage.study.model_dump() | fields, context=catalogue()), paths=lineage.paths
    )


def test_a_study_is_trained_on_this_machine_unless_it_says_otherwise(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(default_resources(lineage)["trainer"]) is StudentTrainer
    monkeypatch.setenv("FINEPHRASE_NANOTRON_GPUS", "4")
    trainer = default_resources(trained_by(lineage, trainer="nanotron"))["trainer"]
    assert isinstance(trainer, NanotronTrainer)
    assert (trainer.gpus, trainer.nodes) == (4, 1)


@pytest.mark.slow
def test_what_one_trainer_made_is_not_the_other_s(lineage: Lineage) -> None:
    complete(lineage)
    cluster = trained_by(lineage, trainer="nanotron")
    run = next(iter(lineage.study.student_runs))
    assert lineage.checkpoint(run).complete
    assert not cluster.checkpoint(run).complete
    assert cluster.mixture(cluster.study.student_runs[run].mixture).complete


@pytest.mark.parametrize("trainer", ["transformers", "nanotron"])
def test_either_trainer_may_be_looked_at_and_stopped_on_the_way(lineage: Lineage, trainer: str) -> None:
    evaluation = lineage.evaluation.model_dump() | {"every": 10}
    study = trained_by(lineage, trainer=trainer, evaluation=evaluation, early_stop={"step": 100, "keep": 0.5}).study
    assert (study.evaluation and study.evaluation.every, bool(study.rivals)) == (10, True)


def test_a_checkpoint_without_models_on_the_way_does_not_stand_for_one_with_them(lineage: Lineage) -> None:
    complete(lineage)
    run = next(iter(lineage.study.student_runs))
    looking = trained_by(lineage, evaluation=lineage.evaluation.model_dump() | {"every": 10})
    assert not looking.checkpoint(run).complete
