"""The table "By experiment" in docs/architecture.md: each of its rows is carried out on a tiny run.

A row names a setting, what changing it does to the output, and whether it is in the recipe. Each experiment compares
the output of a study with that of the changed study, and the two recipes, and both with the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.evaluate.evaluation import SAMPLES, evaluate_checkpoint
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.train.job import TrainingExecution, TrainingJob
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import load_tokenizer
from finephrase_dagster.train.trainer import train
from test_evaluate_checkpoint import narrow  # noqa: F401 - a fixture
from test_staleness import STUDY, complete, edited
from test_train import SEQUENCE, Study
from test_train import study as inputs  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow  # students are trained

Rows = Sequence[Mapping[str, Any]]
STEPS = 6
TINY = [
    ("hidden: 128, ffn: 384", "hidden: 32, ffn: 64"),
    ("batch_sequences: 2, learning_rate: 2.0e-3", "batch_sequences: 4, learning_rate: 1.0e-3"),
]
"""Edits after which a student is trained in a fraction of a second, by steps so small that rounding does not grow."""
OF_WEIGHTS, OF_SCORES = 3e-4, 1e-5
"""Most that rounding changes: weights, as a share of the way from their initial values; probabilities of answers."""


@dataclass(frozen=True)
class Change:
    """What an experiment changes: the study by edits, and how the machine executes it."""

    edits: list[tuple[str, str]] = field(default_factory=list)
    threads: int = 1
    execution: TrainingExecution = field(default_factory=TrainingExecution)
    batch_size: int = 8


CHANGES: dict[tuple[str, str], Change] = {
    ("checkpoint", "micro batch"): Change(execution=TrainingExecution(micro_batch=1)),
    ("checkpoint", "threads"): Change(threads=2),
    ("checkpoint", "checkpoint interval"): Change(execution=TrainingExecution(checkpoint_steps=2)),
    ("checkpoint", "`precision`"): Change([("layers: 2", "layers: 2, precision: bfloat16")]),
    ("checkpoint", "`precision` written out"): Change([("layers: 2", "layers: 2, precision: float32")]),
    ("checkpoint", "`attention`"): Change([("layers: 2", "layers: 2, attention: eager")]),
    ("checkpoint", "`batch_sequences`"): Change([("batch_sequences: 4", "batch_sequences: 2")]),
    ("checkpoint", "`learning_rate`"): Change([("learning_rate: 1.0e-3", "learning_rate: 9.0e-4")]),
    ("checkpoint", "`final_learning_rate`"): Change([("final_learning_rate: 2.0e-4", "final_learning_rate: 1.0e-4")]),
    ("checkpoint", "`warmup_fraction`"): Change([("warmup_fraction: 0.1", "warmup_fraction: 0.4")]),
    ("checkpoint", "`decay_fraction`"): Change([("decay_fraction: 0.3", "decay_fraction: 0.5")]),
    ("checkpoint", "`weight_decay`"): Change([("layers: 2", "layers: 2, weight_decay: 0.3")]),
    ("checkpoint", "`document_masking`"): Change([("layers: 2", "layers: 2, document_masking: false")]),
    ("checkpoint", "`layers`, `hidden`, `ffn`, heads"): Change([("layers: 2", "layers: 1")]),
    ("checkpoint", "data seed"): Change([("data: 0", "data: 1")]),
    ("checkpoint", "model seed"): Change([("model: 0", "model: 1")]),
    ("checkpoint", "`every`"): Change([("shots: 3", "shots: 3, every: 2")]),
    ("scores", "batch size"): Change(batch_size=1),
    ("scores", "threads"): Change(threads=2),
    ("scores", "order of `tasks`"): Change([("[gsm8k, piqa_cf]", "[piqa_cf, gsm8k]")]),
    ("scores", "`tasks`"): Change([("[gsm8k, piqa_cf]", "[gsm8k]")]),
    ("scores", "`shots`"): Change([("shots: 3", "shots: 1")]),
    ("scores", "`samples`"): Change([("samples: 20", "samples: 3")]),
}


def documented() -> dict[tuple[str, str], tuple[str, str]]:
    """Return outcome and "in the recipe" of every row of the table, by stage and setting."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("### By experiment")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (dataset|checkpoint|scores) \| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {(stage, setting): (outcome, counts) for stage, setting, outcome, counts in rows}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    root = tmp_path_factory.mktemp("experiments")
    (root / "corpus.jsonl").write_text('{"text": "one"}\n')
    (root / "study.yaml").write_text(edited(STUDY, [*TINY, ("CORPUS", str(root / "corpus.jsonl"))]))
    paths = Paths(data=root / "data", study=root / "study.yaml", prompts=REPOSITORY / "prompts")
    complete(read_lineage(paths))
    return paths


@pytest.fixture(scope="module")
def tokens(inputs: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:  # noqa: F811
    return inputs.on(tmp_path_factory.mktemp("tokens") / "mixture", seed=0, steps=STEPS)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def changed_lineage(paths: Paths, edits: list[tuple[str, str]], folder: Path) -> tuple[Lineage, str]:
    """Return the lineage of the edited study, and the name of its run on the raw corpus."""
    study = folder / "study.yaml"
    study.write_text(edited(paths.study.read_text(), edits))
    lineage = read_lineage(Paths(data=paths.data, study=study, prompts=paths.prompts))
    return lineage, next(run for run in lineage.study.student_runs if run.startswith("raw__"))


def trained(lineage: Lineage, run: str, change: Change, tokens: Study, output: Path) -> dict[str, Any]:
    """Train the run's student on a few steps; return its weights and the names of the kept models."""
    student_run = lineage.study.student_runs[run]
    output.mkdir()
    torch.set_num_threads(change.threads)
    job = TrainingJob(
        student=lineage.study.students[student_run.student],
        sequence=SEQUENCE,
        seeds=student_run.seeds,
        mixture=tokens.mixture,
        components=tokens.components,
        tokenizer=tokens.tokenizer,
        output=output,
        keep_steps=lineage.evaluation.every,
        execution=change.execution,
    )
    train(job)
    kept = sorted(path.name for path in (output / "steps").glob("*"))
    return {"bytes": (output / "model" / "model.safetensors").read_bytes(), "kept": kept}


def distance(one: Path, two: Path, tokens: Study, lineage: Lineage) -> float:
    """Return how far the weights of two students are apart, as a share of their way from their initial values."""
    words = load_tokenizer(tokens.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = build_student(
            lineage.study.students["nano"], vocabulary=len(words), sequence=SEQUENCE, eos=words.eos_token_id
        ).state_dict()
    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    if weights.keys() != others.keys():
        return float("inf")
    apart = sum(float(((weights[name] - others[name]) ** 2).sum()) for name in weights)
    way = sum(float(((weights[name] - fresh[name]) ** 2).sum()) for name in weights)
    return (apart / way) ** 0.5


@pytest.fixture(scope="module")
def unchanged(paths: Paths, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lineage, str]:
    return changed_lineage(paths, [], tmp_path_factory.mktemp("unchanged"))


@pytest.fixture(scope="module")
def student(
    unchanged: tuple[Lineage, str], tokens: Study, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder and the output of the unchanged training."""
    folder = tmp_path_factory.mktemp("student") / "output"
    threads = torch.get_num_threads()
    output = trained(*unchanged, Change(), tokens, folder)
    torch.set_num_threads(threads)
    return folder, output


@pytest.fixture(scope="module")
def samples(unchanged: tuple[Lineage, str], narrow: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:  # noqa: F811
    """The output of the unchanged evaluation."""
    return evaluated(unchanged[0], Change(), narrow, tmp_path_factory.mktemp("samples"))


def check(row: tuple[str, str], outcome: str, before: str, after: str) -> None:
    """Compare the outcome of an experiment and both fingerprints with its row, and the row with the rule."""
    expected, counts = documented()[row]
    if expected == "rounding":  # where two orders of a sum happen to round alike, the bytes are equal
        assert outcome in ("rounding", "same bytes")
    else:
        assert outcome == expected
    assert (before != after) is counts.startswith("yes")
    if outcome == "other":
        assert counts == "yes"
    elif counts.startswith("yes"):
        assert counts == "yes: a kernel that a person chooses"


def of(stage: str) -> list[tuple[str, str]]:
    return [row for row in CHANGES if row[0] == stage]


def test_every_row_of_the_documented_table_is_carried_out() -> None:
    assert {row for row in documented() if row[0] != "dataset"} == CHANGES.keys()


@pytest.mark.parametrize("row", of("checkpoint"), ids=lambda row: row[1])
def test_a_training_setting_is_in_the_recipe_exactly_if_it_may_change_the_student(
    row: tuple[str, str],
    paths: Paths,
    tokens: Study,
    unchanged: tuple[Lineage, str],
    student: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    lineage, run = changed_lineage(paths, CHANGES[row].edits, tmp_path)
    output = trained(lineage, run, CHANGES[row], tokens, tmp_path / "output")
    if output == student[1]:
        outcome = "same bytes"
    elif output["kept"] != student[1]["kept"]:
        outcome = "other"
    else:
        apart = distance(student[0], tmp_path / "output", tokens, unchanged[0])
        outcome = "rounding" if apart < OF_WEIGHTS else "other"
    check(row, outcome, unchanged[0].checkpoint(unchanged[1]).fingerprint, lineage.checkpoint(run).fingerprint)


@pytest.mark.parametrize("row", of("scores"), ids=lambda row: row[1])
def test_a_setting_of_the_evaluation_is_in_the_recipe_exactly_if_it_may_change_the_scores(
    row: tuple[str, str],
    paths: Paths,
    unchanged: tuple[Lineage, str],
    samples: Rows,
    narrow: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    lineage, run = changed_lineage(paths, CHANGES[row].edits, tmp_path)
    outcome = scores_outcome(samples, evaluated(lineage, CHANGES[row], narrow, tmp_path / "scores"))
    check(row, outcome, unchanged[0].scores(unchanged[1]).fingerprint, lineage.scores(run).fingerprint)


def evaluated(lineage: Lineage, change: Change, checkpoint: Path, output: Path) -> Rows:
    """Score a checkpoint as a study describes it; return the samples."""
    evaluation, size = lineage.evaluation, change.batch_size
    evaluate_checkpoint(checkpoint, output, evaluation=evaluation, batch_size=size, threads=change.threads)
    return pq.read_table(output / SAMPLES).to_pylist()


def scores_outcome(one: Rows, two: Rows) -> str:
    """Return what differs between two tables of samples, whose order does not matter."""
    asked = [{(row["task"], row["item"], row["shots"]): row["prob_norm_token"] for row in rows} for rows in (one, two)]
    if asked[0].keys() != asked[1].keys():
        return "other"
    apart = max(abs(value - asked[1][name]) for name, value in asked[0].items())
    return "same bytes" if apart == 0 else "rounding" if apart < OF_SCORES else "other"
