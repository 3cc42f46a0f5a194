"""Students: shape, schedule, determinism, resumption and the checkpoint that others load."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from statistics import fmean
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.file import read_study
from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.study.student import Mixture, Seeds, Student
from finephrase_dagster.train import trainer
from finephrase_dagster.train.checkpoint import last_checkpoint, mark_complete
from finephrase_dagster.train.job import (
    LossPoint,
    StartingCheckpoint,
    TrainingDiverged,
    TrainingError,
    TrainingExecution,
    TrainingFacts,
    TrainingJob,
)
from finephrase_dagster.train.mixture import mix, read_windows
from finephrase_dagster.train.schedule import data_order, learning_rate_factor
from finephrase_dagster.train.sequences import Sequences, positions
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import train_tokenizer
from finephrase_dagster.train.tokens import TokenSet, tokenise
from finephrase_dagster.train.trainer import adamw, train

SEQUENCE = 32
SAVING = TrainingExecution(checkpoint_steps=10)
STUDENT = Student(
    layers=2,
    hidden=32,
    ffn=64,
    heads=4,
    kv_heads=2,
    batch_sequences=4,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    warmup_fraction=0.1,
    decay_fraction=0.3,
    weight_decay=0.1,
    document_masking=True,
)


@dataclass(frozen=True)
class Study:
    """The inputs of a run."""

    mixture: Path
    components: dict[str, Path]
    tokenizer: Path

    def train(
        self, output: Path, *, data: int = 1, model: int = 1, student: Student = STUDENT, **fields: Any
    ) -> TrainingFacts:
        output.mkdir(exist_ok=True)
        return train(replace(self.job(output, student, Seeds(data=data, model=model)), **fields))

    def train_until(self, output: Path, *, stop: int | Literal["decay"] = "decay", **fields: Any) -> TrainingFacts:
        return self.train(output, stop=stop, execution=SAVING, **fields)

    def job(self, output: Path, student: Student, seeds: Seeds) -> TrainingJob:
        return TrainingJob(
            student=student,
            sequence=SEQUENCE,
            seeds=seeds,
            mixture=self.mixture,
            components=self.components,
            tokenizer=self.tokenizer,
            output=output,
        )

    def on(self, folder: Path, *, seed: int, steps: int = 40) -> Study:
        """Return the same inputs with another mixture of the same tokens."""
        folder.mkdir()
        mixture = Mixture(components={"topics": 1}, tokens=steps * 4 * SEQUENCE + 3 * SEQUENCE, seed=seed)
        mix(folder, mixture=mixture, sequence=SEQUENCE, components=self.components)
        return replace(self, mixture=folder)


def killing(step: int) -> Callable[[str], None]:
    """Return a log that kills the process when a step is reported."""

    def log(message: str) -> None:
        if message.startswith(f"step {step} "):
            os.kill(os.getpid(), signal.SIGKILL)

    return log


def train_and_die(study: Study, output: Path) -> None:
    """Train until the process is killed in the 24th step."""
    torch.set_num_threads(1)
    study.train(output, log=killing(24), execution=SAVING)


def decay_and_die(study: Study, output: Path, pre_decay: Path) -> None:
    """Train the decay until the process is killed in the 32nd step."""
    torch.set_num_threads(1)
    study.train(
        output,
        log=killing(32),
        execution=TrainingExecution(checkpoint_steps=2),
        start=StartingCheckpoint(folder=pre_decay, other_data=True),
    )


def run_until_killed(target: Callable[..., None], *arguments: object) -> None:
    """Run a function in a process of its own and wait until it is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["finephrase_dagster.train.trainer"]
    )  # all of these processes share one import of torch
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed_once(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("killed")
    run_until_killed(train_and_die, study, output)
    return output


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """The output of a run that was killed with checkpoints at steps 10 and 20."""
    return Path(shutil.copytree(killed_once, tmp_path / "killed"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Use one thread: in models this small, threads lose more time waiting for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("study")
    texts = [topics[name] for name in sorted(topics)][:20]
    for folder in ("tokenizer", "mixture", "tokens"):
        (root / folder).mkdir()
    train_tokenizer(root / "tokenizer", vocabulary=512, texts=texts)
    pq.write_table(pa.table({"id": [str(row) for row in range(20)], "text": texts}), root / "shard-00000.parquet")
    components = {"topics": root / "tokens"}
    tokenise(
        [root / "shard-00000.parquet"],
        root / "tokens",
        tokenizer=root / "tokenizer",
        dataset="topics",
        log=lambda _: None,
    )
    mix(
        root / "mixture",
        mixture=Mixture(components={"topics": 1}, tokens=40 * 4 * SEQUENCE + 3 * SEQUENCE, seed=0),
        sequence=SEQUENCE,
        components=components,
    )
    return Study(root / "mixture", components, root / "tokenizer")


@pytest.fixture(scope="module")
def trained(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingFacts]:
    output = tmp_path_factory.mktemp("trained")
    return output, study.train(output)


def weights(output: Path) -> bytes:
    return (output / "model" / "model.safetensors").read_bytes()


def order(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "order.parquet").to_pylist()


def test_the_student_has_the_architecture_of_the_study() -> None:
    """The sizes are those of `1.7b` in the published study; the model is built without memory."""
    published = STUDENT.model_copy(update={"layers": 28, "hidden": 2048, "ffn": 6144, "heads": 16, "kv_heads": 8})
    with torch.device("meta"):
        model = build_student(published, vocabulary=128_256, sequence=4096, eos=128_001)
    assert model.num_parameters() == 1_672_071_168
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
    assert (model.config.hidden_act, model.config.rms_norm_eps) == ("silu", 1e-6)
    assert model.config.rope_parameters["rope_theta"] == 10_000
    assert (model.config.bos_token_id, model.config.eos_token_id) == (None, 128_001)
    assert model.config.max_position_embeddings == 4096


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("0_5b", 483_714_048), ("1_7b", 1_672_071_168), ("2_9b", 2_860_792_320), ("6_2b", 6_162_714_624)],
)
def test_the_presets_are_models_with_the_published_numbers_of_parameters(preset: str, parameters: int) -> None:
    study = read_study(REPOSITORY / "studies" / "finephrase.yaml", catalogue())
    assert study.sequence is not None
    with torch.device("meta"):
        model = build_student(study.students[preset], vocabulary=128_256, sequence=study.sequence, eos=128_001)
    assert model.num_parameters() == parameters == study.students[preset].parameters(128_256)


def test_fresh_weights_have_the_standard_deviation_of_the_study() -> None:
    torch.manual_seed(0)
    model = build_student(STUDENT, vocabulary=512, sequence=SEQUENCE, eos=0)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_weight_decay_does_not_apply_to_embeddings_and_norms() -> None:
    model = build_student(STUDENT, vocabulary=512, sequence=SEQUENCE, eos=0)
    decayed, spared = adamw(model, STUDENT).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert (decayed["betas"], decayed["eps"]) == ((0.9, 0.95), 1e-8)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("proj" in names[id(parameter)] for parameter in decayed["params"])
    assert all("norm" in names[id(parameter)] or "embed" in names[id(parameter)] for parameter in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


@given(
    steps=st.integers(1, 400),
    warmup=st.floats(0, 0.5),
    decay=st.floats(0, 0.5),
    final=st.floats(0, 1e-2),
)
def test_the_schedule_warms_up_stays_and_decays_to_the_final_rate(
    steps: int, warmup: float, decay: float, final: float
) -> None:
    student = STUDENT.model_copy(
        update={"warmup_fraction": warmup, "decay_fraction": decay, "final_learning_rate": final}
    )
    rates = [learning_rate_factor(step, steps=steps, student=student) for step in range(steps)]
    up, down = round(warmup * steps), round(decay * steps)
    assert rates[:up] == sorted(rates[:up])
    assert all(rate > 0 for rate in rates[:up])
    assert all(rate == 1.0 for rate in rates[up : steps - down])
    if up + down <= steps:
        assert rates[steps - down :] == sorted(rates[steps - down :], reverse=True)
    behind = learning_rate_factor(steps, steps=steps, student=student)  # PyTorch's schedules ask once more
    if down and up < steps:
        assert rates[-1] == behind == pytest.approx(final / student.learning_rate)


def test_the_schedule_is_the_published_one_at_the_published_size() -> None:
    """100 steps up, stable to 9,000, linear over 1,000 to a tenth; arXiv 2604.13977."""
    student = STUDENT.model_copy(
        update={
            "learning_rate": 5e-4,
            "final_learning_rate": 5e-5,
            "warmup_fraction": 0.01,
            "decay_fraction": 0.1,
        }
    )
    rates = {step: 5e-4 * learning_rate_factor(step, steps=10_000, student=student) for step in range(10_000)}
    assert rates[0] == pytest.approx(5e-6)
    assert rates[99] == rates[100] == rates[8_999] == 5e-4
    assert rates[9_499] == pytest.approx(2.75e-4)
    assert rates[9_999] == pytest.approx(5e-5)


def test_batches_are_the_windows_in_the_order_of_the_data_seed(study: Study) -> None:
    windows = read_windows(study.mixture, sequence=SEQUENCE)
    tokens = TokenSet(study.components["topics"])
    order = data_order(len(windows), seed=7)
    assert sorted(order) == list(range(len(windows)))
    assert order.tolist() != data_order(len(windows), seed=8).tolist()
    batch = Sequences(windows, [tokens], order, SEQUENCE, end_of_text=None).__getitems__([0, 1, 2])
    expected = [tokens.window(int(windows.start[index]), SEQUENCE) for index in order[:3]]
    assert np.array_equal(batch["input_ids"].numpy(), np.stack(expected))
    assert torch.equal(batch["labels"], batch["input_ids"])
    assert set(batch) == {"input_ids", "labels"}


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_positions_count_from_each_documents_beginning(rows: list[list[int]]) -> None:
    expected = []
    for row in rows:
        place = -1
        expected.append([])
        for index, _ in enumerate(row):
            place = 0 if index and row[index - 1] == 0 else place + 1
            expected[-1].append(place)
    assert positions(np.array(rows), end_of_text=0).tolist() == expected


def test_attention_stays_within_a_document_if_the_student_masks_documents() -> None:
    """The text after a document is predicted as if there were nothing before it."""
    torch.manual_seed(0)
    model = build_student(STUDENT, vocabulary=512, sequence=SEQUENCE, eos=0).eval()
    first, second, later = [5, 6, 7, 0], [9, 8, 7, 0], [11, 12, 13, 14]
    together = np.array([[*first, *later], [*second, *later]])
    places = torch.from_numpy(positions(together, end_of_text=0))
    with torch.no_grad():
        masked = model(input_ids=torch.from_numpy(together), position_ids=places, use_cache=False).logits[:, 4:]
        alone = model(input_ids=torch.tensor([later])).logits
        seeing = model(input_ids=torch.from_numpy(together)).logits[:, 4:]
    assert torch.allclose(masked[0], alone[0], atol=1e-6)
    assert torch.allclose(masked[1], alone[0], atol=1e-6)
    assert not torch.allclose(seeing[0], seeing[1], atol=1e-6)


@pytest.mark.slow
def test_a_student_learns_and_its_facts_are_exact(study: Study, trained: tuple[Path, TrainingFacts]) -> None:
    output, facts = trained
    model = AutoModelForCausalLM.from_pretrained(output / "model")
    assert facts.parameters == model.num_parameters()
    assert (facts.steps, facts.tokens, facts.resumed_from) == (40, 40 * 4 * SEQUENCE, 0)
    assert facts.tokens_per_second == pytest.approx(facts.tokens / facts.seconds)
    assert abs(facts.curve[0].loss - math.log(512)) < 0.3
    assert facts.final_loss < math.log(512) - 0.7
    assert facts.curve[-1].step == 40
    assert facts.curve[-1].learning_rate == pytest.approx(STUDENT.final_learning_rate)
    assert max(point.learning_rate for point in facts.curve) == STUDENT.learning_rate
    table = pq.read_table(output / "losses.parquet")
    assert table.column_names == ["step", "loss", "learning_rate", "tokens"]
    assert table["loss"].to_pylist() == [point.loss for point in facts.curve]
    assert sorted(file.name for file in output.iterdir()) == ["losses.parquet", "model", "order.parquet"]


@pytest.mark.slow
def test_the_order_file_lists_the_windows_a_student_saw_and_their_documents(
    study: Study, trained: tuple[Path, TrainingFacts]
) -> None:
    rows = order(trained[0])
    windows = read_windows(study.mixture, sequence=SEQUENCE)
    places = data_order(len(windows), seed=1)[: 40 * 4]
    assert [row["start"] for row in rows] == windows.start[places].tolist()
    assert {row["component"] for row in rows} == {"topics"}
    ends = TokenSet(study.components["topics"]).document_ends
    for row in rows:
        documents = [int(row[column]) for column in ("first_document", "last_document")]
        begins = [0 if number == 0 else int(ends[number - 1]) for number in documents]
        assert begins[0] <= row["start"] < ends[documents[0]]
        assert begins[1] <= row["start"] + SEQUENCE - 1 < ends[documents[1]]


@pytest.mark.slow
def test_the_checkpoint_loads_alone_and_its_loss_matches_the_curve(
    study: Study, trained: tuple[Path, TrainingFacts]
) -> None:
    output, facts = trained
    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    model = AutoModelForCausalLM.from_pretrained(output / "model").eval()
    assert model.config.use_cache
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    tokens = TokenSet(study.components["topics"])
    starts = range(0, 64 * SEQUENCE, SEQUENCE)
    batch = torch.from_numpy(np.stack([tokens.window(start, SEQUENCE) for start in starts]))
    with torch.no_grad():
        loss = model(input_ids=batch, labels=batch).loss.item()
    assert loss == pytest.approx(facts.final_loss, abs=0.6)
    text = tokenizer.decode(model.generate(batch[:1, :8], max_new_tokens=4, do_sample=False)[0])
    assert text.startswith(tokenizer.decode(batch[0, :8]))


@pytest.mark.slow
def test_equal_seeds_give_equal_weights_and_other_seeds_give_others(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    output, facts = trained
    torch.manual_seed(123)  # the caller's random state plays no part
    again = study.train(tmp_path / "again")
    assert weights(tmp_path / "again") == weights(output)
    assert again.curve == facts.curve
    study.train(tmp_path / "data", data=2)
    study.train(tmp_path / "model", model=2)
    assert len({weights(path) for path in (output, tmp_path / "data", tmp_path / "model")}) == 3


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_and_curve_of_an_uninterrupted_run(
    study: Study, trained: tuple[Path, TrainingFacts], killed: Path
) -> None:
    output, facts = trained
    work = next((killed / "work").iterdir())
    assert not (killed / "model").exists()
    followed: list[LossPoint] = []
    assert sorted(folder.name for folder in work.iterdir()) == ["checkpoint-10", "checkpoint-20"]

    # The latest one is torn as by a full disk: the one before it counts.
    (work / "checkpoint-20" / "optimizer.pt").write_bytes(b"half")
    messages: list[str] = []
    resumed = study.train(killed, log=messages.append, on_loss=followed.append, execution=SAVING)
    assert messages[:2] == [
        "the checkpoint of step 20 is incomplete; it was renamed to torn-0-checkpoint-20",
        "resumes from the checkpoint of step 10",
    ]
    assert resumed.resumed_from == 10
    assert resumed.curve == facts.curve == tuple(followed)
    assert weights(killed) == weights(output)
    assert not (killed / "work").exists()


@pytest.mark.slow
def test_a_batch_in_micro_batches_gives_the_same_student(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    facts = study.train(tmp_path, execution=TrainingExecution(micro_batch=1))
    assert [point.loss for point in facts.curve] == pytest.approx([p.loss for p in trained[1].curve], rel=1e-3)
    assert facts.steps == 40


@pytest.mark.slow
def test_a_student_trains_in_bfloat16_and_is_kept_in_float32(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    facts = study.train(tmp_path, student=STUDENT.model_copy(update={"precision": "bfloat16"}))
    assert facts.final_loss == pytest.approx(trained[1].final_loss, rel=0.02)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.float32
    assert weights(tmp_path) != weights(trained[0])


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a batch of 4 sequences is not a multiple of micro_batch 3"):
        study.train(tmp_path, execution=TrainingExecution(micro_batch=3))


@pytest.mark.slow
def test_a_killed_run_of_another_seed_is_never_resumed(
    study: Study, trained: tuple[Path, TrainingFacts], killed: Path
) -> None:
    assert study.train(killed, data=2, execution=SAVING).resumed_from == 0
    assert weights(killed) != weights(trained[0])


@pytest.mark.slow
def test_a_diverged_run_is_reported_and_leaves_no_model(study: Study, tmp_path: Path) -> None:
    wild = STUDENT.model_copy(update={"learning_rate": 1e30, "final_learning_rate": 1e30})
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        study.train(tmp_path, student=wild)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_run_from_its_pre_decay_checkpoint_has_the_weights_and_curve_of_an_uninterrupted_run(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    output, facts = trained
    pre_decay = study.train_until(tmp_path / "pre_decay")
    assert (pre_decay.steps, pre_decay.curve) == (28, facts.curve[:28])
    assert sorted(file.name for file in (tmp_path / "pre_decay").iterdir()) == [
        "losses.parquet",
        "model",
        "order.parquet",
        "state",
    ]
    continued = study.train(tmp_path / "run", start=StartingCheckpoint(folder=tmp_path / "pre_decay"))
    assert continued.resumed_from == 28
    assert continued.curve == facts.curve
    assert weights(tmp_path / "run") == weights(output)


@pytest.mark.slow
def test_a_decay_variant_sees_the_new_mixture_only_after_the_pre_decay_checkpoint_killed_or_not(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    pre_decay = tmp_path / "pre_decay"
    study.train_until(pre_decay)
    other = study.on(tmp_path / "other", seed=5)
    decayed = other.train(tmp_path / "decayed", start=StartingCheckpoint(folder=pre_decay, other_data=True))
    assert decayed.steps == 40
    assert decayed.curve[:28] == trained[1].curve[:28]
    assert decayed.curve[28:] != trained[1].curve[28:]
    assert weights(tmp_path / "decayed") != weights(trained[0])
    seen, before = order(tmp_path / "decayed"), order(trained[0])
    assert seen[: 28 * 4] == before[: 28 * 4]
    windows = read_windows(other.mixture, sequence=SEQUENCE)
    places = data_order(len(windows), seed=1)[28 * 4 : 40 * 4]
    assert [row["start"] for row in seen[28 * 4 :]] == windows.start[places].tolist()

    run_until_killed(decay_and_die, other, tmp_path / "killed", pre_decay)
    again = other.train(
        tmp_path / "killed",
        start=StartingCheckpoint(folder=pre_decay, other_data=True),
        execution=TrainingExecution(checkpoint_steps=2),
    )
    assert again.resumed_from >= 30
    assert again.curve == decayed.curve
    assert weights(tmp_path / "killed") == weights(tmp_path / "decayed")


@pytest.mark.slow
def test_intermediate_models_are_those_of_their_steps_however_the_run_was_interrupted(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    facts = study.train(tmp_path / "whole", keep_steps=10)
    assert facts.curve == trained[1].curve
    assert weights(tmp_path / "whole") == weights(trained[0])
    kept = {path.name: path for path in (tmp_path / "whole" / "steps").iterdir()}
    assert sorted(kept) == ["10", "20", "30"]
    assert AutoModelForCausalLM.from_pretrained(kept["20"]).config.use_cache
    assert AutoTokenizer.from_pretrained(kept["20"]).eos_token

    pre_decay = tmp_path / "pre_decay"
    study.train_until(pre_decay, keep_steps=10)
    study.train(tmp_path / "continued", keep_steps=10, start=StartingCheckpoint(folder=pre_decay))
    for name, path in kept.items():
        same = tmp_path / "continued" / "steps" / name / "model.safetensors"
        assert same.read_bytes() == (path / "model.safetensors").read_bytes()
    early = tmp_path / "early"
    study.train_until(early, keep_steps=10, stop=20)
    assert sorted(path.name for path in (early / "steps").iterdir()) == ["10", "20"]
    study.train(tmp_path / "continued_early", keep_steps=10, start=StartingCheckpoint(folder=early, step=20))
    assert sorted(path.name for path in (tmp_path / "continued_early" / "steps").iterdir()) == sorted(kept)
    study.train(tmp_path / "decayed", keep_steps=10, start=StartingCheckpoint(folder=pre_decay, other_data=True))
    assert [path.name for path in (tmp_path / "decayed" / "steps").iterdir()] == ["30"]


@pytest.mark.slow
def test_a_run_that_was_stopped_early_continues_as_if_it_had_not_been(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    early = study.train_until(tmp_path / "early", stop=10)
    assert (early.steps, early.curve) == (10, trained[1].curve[:10])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "early" / "model").num_parameters() == early.parameters
    continued = study.train(tmp_path / "run", start=StartingCheckpoint(folder=tmp_path / "early", step=10))
    assert continued.resumed_from == 10
    assert continued.curve == trained[1].curve
    assert weights(tmp_path / "run") == weights(trained[0])


@pytest.mark.slow
def test_a_pre_decay_checkpoint_of_another_length_is_refused(study: Study, tmp_path: Path) -> None:
    study.train_until(tmp_path / "pre_decay")
    shorter = study.on(tmp_path / "shorter", seed=5, steps=20)
    with pytest.raises(TrainingError, match=r"is of step 28, but this run continues from step 14: give both mixtures"):
        shorter.train(tmp_path / "run", start=StartingCheckpoint(folder=tmp_path / "pre_decay", other_data=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": {}}, "no tokens are given for topics, which the mixture .* names"),
        ({"mixture": "nowhere"}, "does not exist: draw the mixture first"),
        ({"mixture": "torn"}, "cannot be read .*: draw the mixture again"),
        ({"tokenizer": "nowhere"}, r"no tokenizer\.json"),
        ({"sequence": 64}, "has windows of 32 tokens instead of 64: draw the mixture again"),
    ],
)
def test_a_job_whose_inputs_are_missing_is_refused(
    study: Study, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "windows.parquet").write_bytes(b"PAR1")
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(FinephraseError, match=message):
        train(replace(study.job(tmp_path, STUDENT, Seeds(data=1, model=1)), **given))


def test_an_attention_kernel_that_does_not_exist_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="attention 'flash_atention' cannot be used"):
        study.train(tmp_path, student=STUDENT.model_copy(update={"attention": "flash_atention"}))


@pytest.mark.slow
def test_a_starting_checkpoint_that_is_torn_or_missing_is_refused(study: Study, tmp_path: Path) -> None:
    study.train_until(tmp_path / "pre_decay", stop=10)
    (tmp_path / "pre_decay" / "state" / "optimizer.pt").write_bytes(b"half")
    for folder in (tmp_path / "pre_decay", tmp_path / "nowhere"):
        for other_data in (False, True):
            start = StartingCheckpoint(folder=folder, step=10, other_data=other_data)
            with pytest.raises(TrainingError, match=r"is not a complete checkpoint to continue from: train its run"):
                study.train(tmp_path / "run", start=start)


def test_a_schedule_without_decay_has_no_pre_decay_checkpoint(study: Study, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="correct the student's 'decay_fraction'"):
        study.train_until(tmp_path, student=STUDENT.model_copy(update={"decay_fraction": 0}))


def test_a_mixture_under_one_batch_is_refused_with_a_remedy(study: Study, tmp_path: Path) -> None:
    large = STUDENT.model_copy(update={"batch_sequences": 10_000})
    with pytest.raises(TrainingError, match=r"163 windows.*batch_sequences"):
        study.train(tmp_path, student=large)
    assert list(tmp_path.iterdir()) == []


def test_only_a_complete_checkpoint_is_resumed(tmp_path: Path) -> None:
    for step in (5, 40, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_bytes(b"1234")
    messages: list[str] = []
    mark_complete(tmp_path / "checkpoint-5")
    mark_complete(tmp_path / "checkpoint-40")
    latest = last_checkpoint(tmp_path, log=messages.append)
    assert latest is not None
    assert (latest.step, latest.folder.name) == (40, "checkpoint-40")
    assert (tmp_path / "torn-0-checkpoint-100").is_dir()
    (tmp_path / "checkpoint-40" / "weights").write_bytes(b"12")
    (tmp_path / "checkpoint-5" / "complete.json").write_text(json.dumps({})[:1])
    assert last_checkpoint(tmp_path, log=messages.append) is None
    assert len(messages) == 4


@pytest.mark.slow
def test_a_killed_training_resumes_by_default_if_enough_time_has_passed(study: Study, tmp_path: Path) -> None:
    by_time = TrainingExecution(checkpoint_minutes=1e-6)
    with pytest.raises(KeyboardInterrupt):
        study.train(tmp_path, log=interrupting(24), execution=by_time)
    assert study.train(tmp_path, execution=by_time).resumed_from >= 16


@pytest.mark.slow
def test_checkpoints_by_time_are_written_between_two_points_of_the_curve_and_do_not_change_it(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CURVE_POINTS", 4)
    by_time = TrainingExecution(checkpoint_minutes=1e-6)
    followed: list[LossPoint] = []
    with pytest.raises(KeyboardInterrupt):
        study.train(tmp_path, log=interrupting(20), execution=by_time)
    resumed = study.train(tmp_path, on_loss=followed.append, execution=by_time)
    assert resumed.resumed_from == 19
    assert [point.step for point in resumed.curve] == [10, 20, 28, 30, 40]
    losses = [point.loss for point in trained[1].curve]
    before = [0, 10, 20, 28, 30]
    for first, point in zip(before, resumed.curve, strict=True):
        assert point.loss == pytest.approx(fmean(losses[first : point.step]), rel=1e-6)
    assert tuple(followed) == resumed.curve


def interrupting(step: int) -> Callable[[str], None]:
    """Return a log that interrupts the training at a step."""

    def log(line: str) -> None:
        if line.startswith(f"step {step} "):
            raise KeyboardInterrupt

    return log
