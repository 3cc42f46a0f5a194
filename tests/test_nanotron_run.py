"""Runs of the nanotron trainer with a stand-in for torchrun: launching, following, taking up, plateaus."""

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
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from finephrase_dagster.study.student import Mixture, Seeds
from finephrase_dagster.train.course import Course, StartingCheckpoint
from finephrase_dagster.train.mixture import mix
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.launch import command, line_for_other_nodes
from finephrase_dagster.train.nanotron.trainer import train_student, train_to_decay
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import load_tokenizer, train_tokenizer
from finephrase_dagster.train.tokens import tokenise
from finephrase_dagster.train.training import (
    Execution,
    Follow,
    LossPoint,
    PreDecayTrainer,
    Trainer,
    TrainingDiverged,
    TrainingError,
    TrainingFacts,
    unfollowed,
)
from nanotron_parts import STUDENT, Stand, build_stand

SEQUENCE = 32
STEPS = 40


@dataclass(frozen=True)
class Study:
    """What a run is trained on, and the stand-in that trains."""

    root: Path
    stand: Stand
    mixture: Path
    messages: list[str] = field(default_factory=list)

    def course(self, *, data: int = 1, keep_steps: int | None = None) -> Course:
        return Course(
            student=STUDENT,
            sequence=SEQUENCE,
            seeds=Seeds(data=data, model=1),
            mixture=self.mixture,
            components={"topics": self.root / "tokens"},
            tokenizer=self.root / "tokenizer",
            keep_steps=keep_steps,
        )

    def train(
        self,
        output: Path,
        *,
        checkpoint_steps: int | None = 10,
        follow: Follow = unfollowed,
        beginning: StartingCheckpoint | None = None,
        **course: Any,
    ) -> TrainingFacts:
        output.mkdir(exist_ok=True)
        train: Trainer = partial(train_student, cluster=self.stand.cluster)
        return train(
            output,
            self.course(**course),
            log=self.messages.append,
            follow=follow,
            execution=Execution(checkpoint_steps=checkpoint_steps, micro_batch=1),
            beginning=beginning,
        )

    def train_to_decay(self, output: Path, *, until: int | None = None, **course: Any) -> TrainingFacts:
        output.mkdir(exist_ok=True)
        train: PreDecayTrainer = partial(train_to_decay, cluster=self.stand.cluster)
        execution = Execution(checkpoint_steps=10, micro_batch=1)
        return train(output, self.course(**course), log=self.messages.append, execution=execution, until=until)

    def on(self, folder: Path, *, seed: int, steps: int = STEPS) -> Study:
        """The same with another mixture."""
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
    """The folder of the only run below `output`."""
    (found,) = (output / "work").iterdir()
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended within ten seconds."""
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
    with pytest.raises(TrainingError, match=r"(?s)ended with 1\..*illegal memory access.*nanotron\.log") as raised:
        study.train(tmp_path / "output")
    assert "taken up at its last checkpoint" in str(raised.value)
    assert not (tmp_path / "output" / "model").exists()


def test_a_failed_run_is_taken_up_at_its_last_whole_checkpoint(study: Study, tmp_path: Path) -> None:
    uninterrupted = study.train(tmp_path / "whole")
    output = tmp_path / "output"
    study.stand.behave(tear_at=30)
    with pytest.raises(TrainingError, match="killed while saving"):
        study.train(output)
    study.stand.behave()
    study.messages.clear()
    followed: list[LossPoint] = []
    facts = study.train(output, follow=followed.append)
    assert study.messages[:2] == ["checkpoint 30 is incomplete and set aside", "taken up at step 20"]
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


def test_another_seed_s_or_mixture_s_run_is_never_taken_up(study: Study, tmp_path: Path) -> None:
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


def test_a_folder_with_another_run_s_fingerprint_is_refused(study: Study, tmp_path: Path) -> None:
    study.stand.behave(fail_at=25)
    with pytest.raises(TrainingError):
        study.train(tmp_path / "output")
    (work(tmp_path / "output") / "fingerprint").write_text("0" * 64)
    with pytest.raises(TrainingError, match="holds another run's checkpoints: remove it"):
        study.train(tmp_path / "output")


def test_a_diverged_run_is_ended_and_says_so(study: Study, tmp_path: Path) -> None:
    study.stand.behave(diverge_at=5, seconds=0.1)
    with pytest.raises(TrainingDiverged, match="nan at step 5: lower the student's 'learning_rate'"):
        study.train(tmp_path / "output")
    assert gone(int((work(tmp_path / "output") / "worker.pid").read_text()))


def test_two_checkpoints_are_kept_beside_the_one_in_writing(study: Study, tmp_path: Path) -> None:
    study.stand.behave(fail_at=40, seconds=0.02)
    with pytest.raises(TrainingError):
        study.train(tmp_path / "output", checkpoint_steps=5)
    kept = sorted(int(path.name) for path in (work(tmp_path / "output") / "checkpoints").glob("[0-9]*"))
    assert kept == [25, 30, 35]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_process_that_is_ended(study: Study, tmp_path: Path, number: signal.Signals) -> None:
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


def test_a_run_from_its_plateau_has_the_curve_of_one_in_one_go(study: Study, tmp_path: Path) -> None:
    whole = study.train(tmp_path / "whole")
    plateau = study.train_to_decay(tmp_path / "plateau")
    assert (plateau.steps, plateau.curve) == (28, whole.curve[:28])
    assert sorted(path.name for path in (tmp_path / "plateau").iterdir()) == ["model", "order.parquet", "state"]
    facts = study.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "plateau"))
    assert (facts.resumed_from, facts.curve) == (28, whole.curve)


def test_a_decay_variant_reads_the_new_data_behind_the_plateau_killed_or_not(study: Study, tmp_path: Path) -> None:
    plateau, output = tmp_path / "plateau", tmp_path / "run"
    before = study.train_to_decay(plateau)
    other = study.on(tmp_path / "other", seed=9)
    study.stand.behave(fail_at=36)
    with pytest.raises(TrainingError):
        other.train(output, beginning=StartingCheckpoint(folder=plateau, other_data=True), checkpoint_steps=2)
    told = yaml.safe_load((work(output) / "config.yaml").read_text())
    assert [stage["start_training_step"] for stage in told["data_stages"]] == [1, 29]
    assert told["checkpoints"]["resume_checkpoint_path"] == str(plateau / "state")
    study.stand.behave()
    facts = other.train(output, beginning=StartingCheckpoint(folder=plateau, other_data=True), checkpoint_steps=2)
    assert facts.resumed_from == 34
    assert facts.curve[:28] == before.curve
    assert all(point.loss > 2 for point in facts.curve[28:])  # the stand-in adds 1 in a second stage


def models(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "steps").iterdir())


def test_models_on_the_way_are_kept_whatever_way_the_run_took(study: Study, tmp_path: Path) -> None:
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
    early, plateau = tmp_path / "early", tmp_path / "plateau"
    study.train_to_decay(early, until=16, keep_steps=8)
    study.train_to_decay(plateau, keep_steps=8)
    assert (models(early), models(plateau)) == (["16", "8"], ["16", "24", "8"])
    for name, begun in (
        ("early", StartingCheckpoint(folder=early, step=16)),
        ("plateau", StartingCheckpoint(folder=plateau)),
    ):
        study.train(tmp_path / f"from_{name}", keep_steps=8, beginning=begun)
        assert models(tmp_path / f"from_{name}") == ["16", "24", "32", "8"]
    other.train(tmp_path / "decayed", keep_steps=8, beginning=StartingCheckpoint(folder=plateau, other_data=True))
    assert models(tmp_path / "decayed") == ["32"]


def test_a_run_that_was_stopped_on_the_way_goes_on_as_if_it_had_not_been(study: Study, tmp_path: Path) -> None:
    whole = study.train(tmp_path / "whole")
    early = study.train_to_decay(tmp_path / "early", until=10)
    assert (early.steps, early.curve) == (10, whole.curve[:10])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "early" / "model")
    assert model.num_parameters() == early.parameters
    gone_on = study.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "early", step=10))
    assert (gone_on.resumed_from, gone_on.curve) == (10, whole.curve)
    assert order(tmp_path / "run") == order(tmp_path / "whole")
    assert order(tmp_path / "early") == order(tmp_path / "whole")[:40]
    with pytest.raises(TrainingError, match="ends at step 10, this run goes on from step 12"):
        study.train(tmp_path / "other", beginning=StartingCheckpoint(folder=tmp_path / "early", step=12))


def order(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "order.parquet").to_pylist()


def test_a_plateau_that_does_not_fit_is_refused(study: Study, tmp_path: Path) -> None:
    study.train_to_decay(tmp_path / "plateau")
    shorter = study.on(tmp_path / "shorter", seed=5, steps=20)
    with pytest.raises(TrainingError, match=r"ends at step 28, this run goes on from step 14: give both mixtures"):
        shorter.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "plateau", other_data=True))
    (tmp_path / "plateau" / "state" / "model_config.json").unlink()
    with pytest.raises(TrainingError, match="no whole plateau of nanotron's"):
        study.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "plateau"))


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (Execution(bf16=False), "leave 'bf16' out"),
        (Execution(compile=True), "leave 'compile' and 'attention' out"),
        (Execution(micro_batch=3), "do not divide by micro_batch 3"),
    ],
)
def test_what_nanotron_cannot_do_is_refused(study: Study, tmp_path: Path, execution: Execution, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_student(tmp_path, study.course(), execution=execution, log=print, cluster=study.stand.cluster)


def test_nodes_meet_where_they_are_told_and_the_others_get_the_same_line(tmp_path: Path) -> None:
    machines = NanotronCluster(
        python=tmp_path / "bin/python", source=tmp_path / "src", nodes=8, rendezvous="first:29500"
    )
    told = command(machines, run="abc")
    assert told[0] == str(tmp_path / "bin/torchrun")
    assert told[told.index("--nnodes") + 1 : told.index("--nnodes") + 4] == ["8", "--nproc-per-node", "8"]
    assert told[told.index("--rdzv-endpoint") + 1] == "first:29500"
    assert told[told.index("--rdzv-id") + 1] == "abc"
    line = line_for_other_nodes(machines, tmp_path / "a run", run="abc")
    assert line.startswith(f"cd '{tmp_path}/a run' && ")
    assert "CUDA_DEVICE_MAX_CONNECTIONS=1" in line
    assert line.endswith(" ".join(told[1:]))


def test_nanotron_s_python_is_not_led_astray_by_ours(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchrun = study.stand.cluster.torchrun
    torchrun.write_text(torchrun.read_text().replace("exec", "env > environment.txt\nexec"))
    for name in ("PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "")
    study.stand.behave(fail_at=1)
    with pytest.raises(TrainingError):
        study.train(tmp_path / "output")
    told = dict(re.findall(r"^(\w+)=(.*)$", (work(tmp_path / "output") / "environment.txt").read_text(), re.M))
    assert not {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} & told.keys()
    assert told["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert told["PATH"].startswith(f"{torchrun.parent}{os.pathsep}")
