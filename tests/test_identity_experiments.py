"""The table "By experiment" in docs/architecture.md: each of its rows is carried out on a tiny run.

A row names a setting, what changing it does to the output, and whether it is in the recipe. Each experiment compares
the output of a study with that of the changed study, and the two recipes, and both with the row.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recipe import student_recipe
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.evaluate.evaluation import SAMPLES, evaluate_checkpoint
from finephrase_dagster.evaluate.reading import EMBEDDED_ITEMS
from finephrase_dagster.pods.cluster import Cluster
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.generator import Generator, Sampling
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.study.student import Evaluation, Seeds, Student
from finephrase_dagster.train.job import TrainingExecution, TrainingJob
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.config import DataStage, NanotronRun, config
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
    ("checkpoint", "`micro_batch`"): Change(execution=TrainingExecution(micro_batch=1)),
    ("checkpoint", "threads"): Change(threads=2),
    ("checkpoint", "`checkpoint_steps`"): Change(execution=TrainingExecution(checkpoint_steps=2)),
    ("checkpoint", "`checkpoint_minutes`"): Change(execution=TrainingExecution(checkpoint_minutes=1e-4)),
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
    ("checkpoint", "`layers`"): Change([("layers: 2", "layers: 1")]),
    ("checkpoint", "`hidden`"): Change([("hidden: 32", "hidden: 48")]),
    ("checkpoint", "`ffn`"): Change([("ffn: 64", "ffn: 48")]),
    ("checkpoint", "`heads`"): Change([("heads: 4, kv_heads: 2", "heads: 2, kv_heads: 2")]),
    ("checkpoint", "`kv_heads`"): Change([("kv_heads: 2", "kv_heads: 1")]),
    ("checkpoint", "data seed"): Change([("data: 0", "data: 1")]),
    ("checkpoint", "model seed"): Change([("model: 0", "model: 1")]),
    ("checkpoint", "`every`"): Change([("shots: 3", "shots: 3, every: 2")]),
    ("scores", "`batch_size`"): Change(batch_size=1),
    ("scores", "threads"): Change(threads=2),
    ("scores", "order of `tasks`"): Change([("[gsm8k, piqa_cf]", "[piqa_cf, gsm8k]")]),
    ("scores", "`held_out`"): Change([("shots: 3", "shots: 3, held_out: [piqa_cf]")]),
    ("scores", "`tasks`"): Change([("[gsm8k, piqa_cf]", "[gsm8k]")]),
    ("scores", "`shots`"): Change([("shots: 3", "shots: 1")]),
    ("scores", "`samples`"): Change([("samples: 20", "samples: 3")]),
    ("scores", "`items`"): Change([("items: embedded", "items: ITEMS")]),
}


def documented() -> dict[tuple[str, str], tuple[str, str]]:
    """Return outcome and "in the recipe" of every row of the table, by stage and setting."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("### By experiment")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (dataset|checkpoint|nanotron|scores) \| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
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
    study, items = folder / "study.yaml", folder / "items"
    if ("items: embedded", "items: ITEMS") in edits:
        shutil.copytree(EMBEDDED_ITEMS, items)
        file = next((items / "gsm8k").glob("*.jsonl"))
        file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[::2]), encoding="utf-8")
    study.write_text(edited(paths.study.read_text(), edits).replace("ITEMS", str(items)))
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
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in others.items()}:
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
    ours = CHANGES.keys() | {("nanotron", setting) for setting in NANOTRON}
    assert {row for row in documented() if row[0] != "dataset"} == ours


ELSEWHERE = {"compile", "backend", "engine", "rollouts", "keep"}
"""Settings that the text below the table is about."""


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("dataset", {*Generator.model_fields, *Sampling.model_fields} - {"model", "sampling"}),
        ("dataset", {"concurrency", "chunk_rows", "gpus", "gpu_hour_dollars", "log_seconds"}),
        ("checkpoint", {*Student.model_fields} - {"tensor", "pipeline"}),
        ("checkpoint", {*TrainingExecution.__dataclass_fields__}),
        ("nanotron", {*Student.model_fields, *NanotronCluster.__dataclass_fields__}),
        ("nanotron", {*TrainingExecution.__dataclass_fields__}),
        ("scores", {*Evaluation.model_fields, "batch_size"} - {"every"}),
    ],
)
def test_every_setting_of_a_stage_has_a_row(stage: str, settings: set[str]) -> None:
    rows = " ".join(setting for of, setting in documented() if of == stage)
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").partition("### By experiment")[2]
    assert all(f"`{setting}`" in text for setting in ELSEWHERE)
    assert settings - ELSEWHERE <= set(re.findall(r"`(\w+)`", rows))


SPLIT = Student(
    layers=4,
    hidden=32,
    ffn=48,
    heads=4,
    kv_heads=4,
    batch_sequences=64,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    warmup_fraction=0.1,
)
NANOTRON: dict[str, list[dict[str, Any]]] = {
    "`tensor`": [{"tensor": 2}],
    "`pipeline`": [{"pipeline": 2}],
    "`nodes`": [{"nodes": 2}],
    "`gpus`": [{"gpus": 4}],
    "`micro_batch`": [{"micro_batch": 2}],
    "`recompute`": [{"recompute": True}],
    "`checkpoint_steps`, `checkpoint_minutes`, `peak_tflops`": [{"checkpoint_steps": 3}],
    "`python`, `source`, `rendezvous`, `pod`": [
        {"python": Path("/other/python"), "source": Path("/other/source")},
        {"rendezvous": "host:1", "pod": Pod(cluster=Cluster.model_construct(), image="nanotron", cpu=1, memory=1)},
    ],
    "`precision` float32, `attention`": [{"precision": "float32"}, {"attention": "eager"}],
    "`batch_sequences`": [{"batch_sequences": 128}],
    "`learning_rate`": [{"learning_rate": 2e-2}],
    "`final_learning_rate`": [{"final_learning_rate": 2e-3}],
    "`warmup_fraction`": [{"warmup_fraction": 0.2}],
    "`decay_fraction`": [{"decay_fraction": 0.2}],
    "`weight_decay`": [{"weight_decay": 0.2}],
    "`document_masking`": [{"document_masking": False}],
    "`layers`": [{"layers": 5}],
    "`hidden`": [{"hidden": 64}],
    "`ffn`": [{"ffn": 64}],
    "`heads`": [{"heads": 8}],
    "`kv_heads`": [{"kv_heads": 2}],
}
"""By row of the table: changes of a student, of the cluster and of how it trains."""
ONLY_ROUNDING = {"dp", "micro_batch_size", "batch_accumulation_per_replica", "recompute_layer"}
ONLY_CHECKPOINTS = {"checkpoint_interval", "save_final_state"}


def nanotron_settings(changes: Mapping[str, Any]) -> tuple[Student, dict[str, Any]]:
    """Return the student, and the entries of the YAML that nanotron is started with."""
    student = SPLIT.model_copy(update={name: value for name, value in changes.items() if name in Student.model_fields})
    fields = {name: value for name, value in changes.items() if name in NanotronCluster.__dataclass_fields__}
    cluster = NanotronCluster(**{"python": Path("python"), "source": Path("source"), **fields})
    fields = {name: value for name, value in changes.items() if name in TrainingExecution.__dataclass_fields__}
    job = TrainingJob(
        student=student,
        sequence=SEQUENCE,
        seeds=Seeds(data=0, model=0),
        mixture=Path("mixture"),
        components={},
        tokenizer=Path("tokenizer"),
        output=Path("output"),
        execution=TrainingExecution(**fields),
    )
    stages = (DataStage(name="mixture", start=1, weights={"web": 1.0}, seed=0),)
    steps = changes.get("checkpoint_steps")
    run = NanotronRun(
        job=job,
        name="run",
        vocabulary=512,
        eos=0,
        token_bytes=2,
        stages=stages,
        steps=10,
        end=10,
        checkpoint_steps=steps,
    )
    return student, dict(entries(config(run, cluster)))


def entries(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested sections."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", one) for inner, one in entries(value))
        else:
            yield name, value


@pytest.mark.parametrize("setting", NANOTRON)
def test_a_setting_of_nanotron_is_in_the_recipe_exactly_if_its_yaml_changes_more_than_rounding(setting: str) -> None:
    expected, counts = documented()["nanotron", setting]
    student, before = nanotron_settings({})
    plain = fingerprint(student_recipe(student, "nanotron"))
    for changes in NANOTRON[setting]:
        student, after = nanotron_settings(changes)
        assert (fingerprint(student_recipe(student, "nanotron")) != plain) is (counts == "yes")
        if expected == "refused":
            assert student.unsupported_by("nanotron") in changes
            continue
        changed = {name.rpartition(".")[2] for name in before.keys() | after.keys() if before[name] != after[name]}
        assert changed == set(re.findall(r"`(\w+)`", expected))
        batch = [made["parallelism.dp"] * made["tokens.micro_batch_size"] for made in (before, after)]
        same_batch = batch[0] == batch[1] * after["tokens.batch_accumulation_per_replica"]
        assert (changed <= ONLY_ROUNDING | ONLY_CHECKPOINTS and same_batch) is (counts == "no")


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
