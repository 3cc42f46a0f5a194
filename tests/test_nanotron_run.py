"""Runs of the nanotron trainer with a stand-in for torchrun: launching, following, resuming, continuing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Literal

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from finephrase_dagster.study.student import Mixture, Seeds
from finephrase_dagster.train.job import (
    LossPoint,
    StartingCheckpoint,
    TrainingDiverged,
    TrainingError,
    TrainingExecution,
    TrainingFacts,
    TrainingJob,
)
from finephrase_dagster.train.mixture import mix
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.launch import command, line_for_other_nodes
from finephrase_dagster.train.nanotron.trainer import train
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import load_tokenizer, train_tokenizer
from finephrase_dagster.train.tokens import tokenise
from nanotron_parts import STUDENT, Stand, build_stand

SEQUENCE = 32
STEPS = 40


@dataclass(frozen=True)
class Study:
    """The inputs of a run, and the stand-in for torchrun."""

    root: Path
    stand: Stand
    mixture: Path
    messages: list[str] = field(default_factory=list)

    def train(self, output: Path, *, data: int = 1, checkpoint_steps: int | None = 10, **fields: Any) -> TrainingFacts:
        output.mkdir(exist_ok=True)
        job = TrainingJob(
            student=STUDENT,
            sequence=SEQUENCE,
            seeds=Seeds(data=data, model=1),
            mixture=self.mixture,
            components={"topics": self.root / "tokens"},
            tokenizer=self.root / "tokenizer",
            output=output,
            execution=TrainingExecution(checkpoint_steps=checkpoint_steps, micro_batch=1),
            log=self.messages.append,
        )
        return train(replace(job, **fields), cluster=self.stand.cluster)

    def train_until(self, output: Path, *, stop: int | Literal["decay"] = "decay", **fields: Any) -> TrainingFacts:
        return self.train(output, stop=stop, **fields)

    def on(self, folder: Path, *, seed: int, steps: int = STEPS) -> Study:
        """Return the same inputs with another mixture."""
        folder.mkdir()
        mixture = Mixture(components={"topics": 1}, tokens=steps * 4 * SEQUENCE, seed=seed)
        mix(folder, mixture=mixture, sequence=SEQUENCE, components={"topics": self.root / "tokens"})
        return replace(self, mixture=folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    texts = [topics[name] for name in sorted(topics)][:8]
    for folder in ("tokenizer", "tokens"):
        (root / folder).mkdir()
    train_tokenizer(root / "tokenizer", vocabulary=512, texts=texts)
    pq.write_table(pa.table({"id": [str(row) for row in range(8)], "text": texts}), root / "shard.parquet")
    tokenise([root / "shard.parquet"], root / "tokens", tokenizer=root / "tokenizer", dataset="t", log=lambda _: None)
    torch.manual_seed(5)
    words = load_tokenizer(root / "tokenizer")
    build_stand(root / "stand", build_student(STUDENT, vocabulary=len(words), sequence=SEQUENCE, eos=0))
    return root


@pytest.fixture
def study(prepared: Path, tmp_path: Path) -> Study:
    shutil.copytree(prepared / "stand", tmp_path / "stand")
    whole = Study(prepared, Stand(tmp_path / "stand"), tmp_path / "mixture")
    return whole.on(tmp_path / "mixture", seed=0)


def work(output: Path) -> Path:
    """Return the folder of the only run below `output`."""
    (folder,) = (output / "work").iterdir()
    return folder


def gone(pid: int) -> bool:
    """Return whether a process has ended within ten seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_run_leaves_a_model_a_curve_and_its_facts(study: Study, tmp_path: Path) -> None:
    output = tmp_path / "output"
    facts = study.train(output)
    assert sorted(path.name for path in output.iterdir()) == ["losses.parquet", "model", "order.parquet"]
    model = AutoModelForCausalLM.from_pretrained(output / "model")
    words = AutoTokenizer.from_pretrained(output / "model")
    assert facts.parameters == model.num_parameters() == STUDENT.parameters(len(words))
    assert (facts.steps, facts.tokens, facts.resumed_from, facts.gpus) == (40, 40 * 4 * SEQUENCE, 0, 2)
    assert facts.tokens_per_second == pytest.approx(655_000)
    assert len(facts.curve) == 40
    assert facts.curve[0].learning_rate == 0.0
    assert facts.curve[9].learning_rate == pytest.approx(1e-2, rel=0.01)
    assert facts.curve[-1].learning_rate == pytest.approx(1.75e-3, rel=0.01)
    assert facts.curve[-1].loss == pytest.approx(8 / 5, rel=0.01)
    assert pq.read_table(output / "losses.parquet")["loss"].to_pylist() == [point.loss for point in facts.curve]
    assert "MFU 40%" in study.messages[-1]
    assert study.messages[-1].startswith("step 40 of 40: loss 1.6")


def test_a_run_that_fails_says_nanotron_s_last_words_and_leaves_no_model(study: Study, tmp_path: Path) -> None:
    study.stand.behave(fail_at=15)
    with pytest.raises(
        TrainingError, match=r"(?s)ended with exit status 1\..*illegal memory access.*nanotron\.log"
    ) as raised:
        study.train(tmp_path / "output")
    assert "to resume from its last checkpoint" in str(raised.value)
    assert not (tmp_path / "output" / "model").exists()


@pytest.mark.slow
def test_a_failed_run_resumes_from_its_last_complete_checkpoint(study: Study, tmp_path: Path) -> None:
    uninterrupted = study.train(tmp_path / "whole")
    output = tmp_path / "output"
    study.stand.behave(tear_at=30)
    with pytest.raises(TrainingError, match="killed while saving"):
        study.train(output)
    study.stand.behave()
    study.messages.clear()
    followed: list[LossPoint] = []
    facts = study.train(output, on_loss=followed.append)
    assert study.messages[:2] == [
        "the checkpoint of step 30 is incomplete; it was renamed to torn-0-30",
        "resumes from the checkpoint of step 20",
    ]
    assert facts.resumed_from == 20
    assert facts.curve == uninterrupted.curve == tuple(followed)
    assert not (output / "work").exists()


def test_a_run_that_was_killed_after_its_last_step_is_only_converted(study: Study, tmp_path: Path) -> None:
    output = tmp_path / "output"
    study.stand.behave(fail_at=35)
    with pytest.raises(TrainingError):
        study.train(output)
    last = work(output) / "checkpoints" / "40"
    shutil.copytree(work(output) / "checkpoints" / "30", last)
    metadata = json.loads((last / "checkpoint_metadata.json").read_text())
    metadata["metas"]["last_train_step"] = 40
    (last / "checkpoint_metadata.json").write_text(json.dumps(metadata))
    study.stand.behave(fail_at=1)
    assert study.train(output).resumed_from == 40
    assert (output / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_of_another_seed_or_mixture_is_never_resumed(study: Study, tmp_path: Path) -> None:
    output = tmp_path / "output"
    study.stand.behave(fail_at=25)
    with pytest.raises(TrainingError):
        study.train(output)
    with pytest.raises(TrainingError):
        study.train(output, data=2)
    with pytest.raises(TrainingError):
        study.on(tmp_path / "other", seed=9).train(output)
    assert len(list((output / "work").iterdir())) == 3
    study.stand.behave()
    assert study.train(output, data=3).resumed_from == 0


def test_a_folder_with_the_fingerprint_of_another_run_is_refused(study: Study, tmp_path: Path) -> None:
    study.stand.behave(fail_at=25)
    with pytest.raises(TrainingError):
        study.train(tmp_path / "output")
    (work(tmp_path / "output") / "fingerprint").write_text("0" * 64)
    with pytest.raises(TrainingError, match="holds another run's checkpoints: delete it"):
        study.train(tmp_path / "output")


def test_a_diverged_run_is_ended_and_reported(study: Study, tmp_path: Path) -> None:
    study.stand.behave(diverge_at=5, seconds=0.1)
    with pytest.raises(TrainingDiverged, match="nan at step 5: lower the student's 'learning_rate'"):
        study.train(tmp_path / "output")
    assert gone(int((work(tmp_path / "output") / "worker.pid").read_text()))


@pytest.mark.slow
def test_two_checkpoints_are_kept_in_addition_to_the_one_being_written(study: Study, tmp_path: Path) -> None:
    study.stand.behave(fail_at=40, seconds=0.02)
    with pytest.raises(TrainingError):
        study.train(tmp_path / "output", checkpoint_steps=5)
    kept = sorted(int(path.name) for path in (work(tmp_path / "output") / "checkpoints").glob("[0-9]*"))
    assert kept == [25, 30, 35]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_when_the_trainer_is_ended(study: Study, tmp_path: Path, number: signal.Signals) -> None:
    study.stand.behave(seconds=0.2)
    output = tmp_path / "output"
    output.mkdir()
    script = f"""
from pathlib import Path
import test_nanotron_run as t
study = t.Study(Path({str(study.root)!r}), t.Stand(Path({str(study.stand.root)!r})), Path({str(study.mixture)!r}))
study.train(Path({str(output)!r}), checkpoint_steps=2)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(output.glob("work/*/checkpoints/4/model_config.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker = int((work(output) / "worker.pid").read_text())
    family = [worker, psutil.Process(worker).ppid()]
    process.send_signal(number)
    process.wait(timeout=60)
    assert all(gone(pid) for pid in family)
    study.stand.behave()
    assert study.train(output, checkpoint_steps=2).resumed_from >= 4


@pytest.mark.slow
def test_a_run_from_its_pre_decay_checkpoint_has_the_curve_of_an_uninterrupted_run(
    study: Study, tmp_path: Path
) -> None:
    whole = study.train(tmp_path / "whole")
    pre_decay = study.train_until(tmp_path / "pre_decay")
    assert (pre_decay.steps, pre_decay.curve) == (28, whole.curve[:28])
    assert sorted(path.name for path in (tmp_path / "pre_decay").iterdir()) == [
        "losses.parquet",
        "model",
        "order.parquet",
        "state",
    ]
    facts = study.train(tmp_path / "run", start=StartingCheckpoint(folder=tmp_path / "pre_decay"))
    assert (facts.resumed_from, facts.curve) == (28, whole.curve)


@pytest.mark.slow
def test_a_decay_variant_reads_the_new_data_after_the_pre_decay_checkpoint_killed_or_not(
    study: Study, tmp_path: Path
) -> None:
    pre_decay, output = tmp_path / "pre_decay", tmp_path / "run"
    before = study.train_until(pre_decay)
    other = study.on(tmp_path / "other", seed=9)
    study.stand.behave(fail_at=36)
    with pytest.raises(TrainingError):
        other.train(output, start=StartingCheckpoint(folder=pre_decay, other_data=True), checkpoint_steps=2)
    config = yaml.safe_load((work(output) / "config.yaml").read_text())
    assert [stage["start_training_step"] for stage in config["data_stages"]] == [1, 29]
    assert config["checkpoints"]["resume_checkpoint_path"] == str(pre_decay / "state")
    study.stand.behave()
    facts = other.train(output, start=StartingCheckpoint(folder=pre_decay, other_data=True), checkpoint_steps=2)
    assert facts.resumed_from == 34
    assert facts.curve[:28] == before.curve
    assert all(point.loss > 2 for point in facts.curve[28:])  # the stand-in adds 1 in a second stage


def models(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "steps").iterdir())


@pytest.mark.slow
def test_intermediate_models_are_kept_however_the_run_was_interrupted(study: Study, tmp_path: Path) -> None:
    study.train(tmp_path / "whole", keep_steps=8)
    assert models(tmp_path / "whole") == ["16", "24", "32", "8"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "steps" / "16")
    assert AutoTokenizer.from_pretrained(tmp_path / "whole" / "steps" / "16").eos_token
    assert model.num_parameters() == STUDENT.parameters(512)

    study.stand.behave(fail_at=27)
    with pytest.raises(TrainingError):
        study.train(tmp_path / "failed", keep_steps=8, checkpoint_steps=2)
    run = work(tmp_path / "failed")
    assert sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*")) == [22, 24, 26]
    (run / "checkpoints" / "26" / "model_config.json").unlink()
    (run / "checkpoints" / "24" / "model_config.json").unlink()
    study.stand.behave()
    assert study.train(tmp_path / "failed", keep_steps=8, checkpoint_steps=2).resumed_from == 22
    assert models(tmp_path / "failed") == ["16", "24", "32", "8"]

    other = study.on(tmp_path / "other", seed=9)
    early, pre_decay = tmp_path / "early", tmp_path / "pre_decay"
    study.train_until(early, stop=16, keep_steps=8)
    study.train_until(pre_decay, keep_steps=8)
    assert (models(early), models(pre_decay)) == (["16", "8"], ["16", "24", "8"])
    for name, start in (
        ("early", StartingCheckpoint(folder=early, step=16)),
        ("pre_decay", StartingCheckpoint(folder=pre_decay)),
    ):
        study.train(tmp_path / f"from_{name}", keep_steps=8, start=start)
        assert models(tmp_path / f"from_{name}") == ["16", "24", "32", "8"]
    other.train(tmp_path / "decayed", keep_steps=8, start=StartingCheckpoint(folder=pre_decay, other_data=True))
    assert models(tmp_path / "decayed") == ["32"]


@pytest.mark.slow
def test_a_run_that_was_stopped_early_continues_as_if_it_had_not_been(study: Study, tmp_path: Path) -> None:
    whole = study.train(tmp_path / "whole")
    early = study.train_until(tmp_path / "early", stop=10)
    assert (early.steps, early.curve) == (10, whole.curve[:10])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "early" / "model")
    assert model.num_parameters() == early.parameters
    continued = study.train(tmp_path / "run", start=StartingCheckpoint(folder=tmp_path / "early", step=10))
    assert (continued.resumed_from, continued.curve) == (10, whole.curve)
    assert order(tmp_path / "run") == order(tmp_path / "whole")
    assert order(tmp_path / "early") == order(tmp_path / "whole")[:40]
    with pytest.raises(TrainingError, match="is of step 10, but this run continues from step 12"):
        study.train(tmp_path / "other", start=StartingCheckpoint(folder=tmp_path / "early", step=12))


def order(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "order.parquet").to_pylist()


def test_a_starting_checkpoint_that_does_not_fit_is_refused(study: Study, tmp_path: Path) -> None:
    study.train_until(tmp_path / "pre_decay")
    shorter = study.on(tmp_path / "shorter", seed=5, steps=20)
    with pytest.raises(TrainingError, match=r"is of step 28, but this run continues from step 14: give both mixtures"):
        shorter.train(tmp_path / "run", start=StartingCheckpoint(folder=tmp_path / "pre_decay", other_data=True))
    (tmp_path / "pre_decay" / "state" / "model_config.json").unlink()
    with pytest.raises(TrainingError, match="is not a complete checkpoint to continue from"):
        study.train(tmp_path / "run", start=StartingCheckpoint(folder=tmp_path / "pre_decay"))


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (TrainingExecution(compile=True), "leave 'compile' out"),
        (TrainingExecution(micro_batch=3), "do not divide by micro_batch 3"),
    ],
)
def test_settings_that_nanotron_does_not_support_are_refused(
    study: Study, tmp_path: Path, execution: TrainingExecution, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        study.train(tmp_path, execution=execution)


def test_nodes_meet_at_the_rendezvous_and_all_run_the_same_command(tmp_path: Path) -> None:
    machines = NanotronCluster(
        python=tmp_path / "bin/python", source=tmp_path / "src", nodes=8, rendezvous="first:29500"
    )
    arguments = command(machines, run="abc")
    assert arguments[0] == str(tmp_path / "bin/torchrun")
    nodes = arguments.index("--nnodes")
    assert arguments[nodes + 1 : nodes + 4] == [
        "8",
        "--nproc-per-node",
        "8",
    ]
    assert arguments[arguments.index("--rdzv-endpoint") + 1] == "first:29500"
    assert arguments[arguments.index("--rdzv-id") + 1] == "abc"
    line = line_for_other_nodes(machines, tmp_path / "a run", run="abc")
    assert line.startswith(f"cd '{tmp_path}/a run' && ")
    assert "CUDA_DEVICE_MAX_CONNECTIONS=1" in line
    assert line.endswith(" ".join(arguments[1:]))


def test_nanotrons_python_ignores_the_variables_of_ours(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchrun = study.stand.cluster.torchrun
    torchrun.write_text(torchrun.read_text().replace("exec", "env > environment.txt\nexec"))
    for name in ("PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "")
    study.stand.behave(fail_at=1)
    with pytest.raises(TrainingError):
        study.train(tmp_path / "output")
    variables = dict(re.findall(r"^(\w+)=(.*)$", (work(tmp_path / "output") / "environment.txt").read_text(), re.M))
    assert not {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} & variables.keys()
    assert variables["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert variables["PATH"].startswith(f"{torchrun.parent}{os.pathsep}")
