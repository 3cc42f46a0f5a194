"""Students: shape, schedule, determinism, resumption and the checkpoint that others load."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

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
from finephrase_dagster.train.checkpoint import last_checkpoint, mark_whole
from finephrase_dagster.train.course import Course, StartingCheckpoint
from finephrase_dagster.train.mixture import mix, read_windows
from finephrase_dagster.train.sequences import Sequences, positions
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import train_tokenizer
from finephrase_dagster.train.tokens import TokenSet, tokenise
from finephrase_dagster.train.trainer import adamw, train_student, train_to_decay
from finephrase_dagster.train.training import (
    DEFAULT,
    Execution,
    Follow,
    LossPoint,
    PreDecayTrainer,
    Trainer,
    TrainingDiverged,
    TrainingError,
    TrainingFacts,
    data_order,
    learning_rate_factor,
    unfollowed,
)

SEQUENCE = 32
SAVING = Execution(checkpoint_steps=10)
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
    """What a run is trained on."""

    mixture: Path
    components: dict[str, Path]
    tokenizer: Path

    def train(
        self,
        output: Path,
        *,
        data: int = 1,
        model: int = 1,
        student: Student = STUDENT,
        log: Callable[[str], None] = lambda _: None,
        follow: Follow = unfollowed,
        execution: Execution = DEFAULT,
        keep_steps: int | None = None,
        beginning: StartingCheckpoint | None = None,
    ) -> TrainingFacts:
        output.mkdir(exist_ok=True)
        train: Trainer = train_student
        return train(
            output,
            self.course(student, data, model, keep_steps),
            log=log,
            follow=follow,
            execution=execution,
            beginning=beginning,
        )

    def train_to_decay(
        self,
        output: Path,
        *,
        student: Student = STUDENT,
        log: Callable[[str], None] = lambda _: None,
        keep_steps: int | None = None,
        until: int | None = None,
    ) -> TrainingFacts:
        output.mkdir(exist_ok=True)
        train: PreDecayTrainer = train_to_decay
        return train(output, self.course(student, 1, 1, keep_steps), log=log, execution=SAVING, until=until)

    def course(self, student: Student, data: int, model: int, keep_steps: int | None) -> Course:
        return Course(
            student=student,
            sequence=SEQUENCE,
            seeds=Seeds(data=data, model=model),
            mixture=self.mixture,
            components=self.components,
            tokenizer=self.tokenizer,
            keep_steps=keep_steps,
        )

    def on(self, folder: Path, *, seed: int, steps: int = 40) -> Study:
        """The same with another mixture of the same tokens."""
        folder.mkdir()
        mixture = Mixture(components={"topics": 1}, tokens=steps * 4 * SEQUENCE + 3 * SEQUENCE, seed=seed)
        mix(folder, mixture=mixture, sequence=SEQUENCE, components=self.components)
        return replace(self, mixture=folder)


def killing(step: int) -> Callable[[str], None]:
    """A log that kills the process as soon as it hears of a step."""

    def log(message: str) -> None:
        if message.startswith(f"step {step} "):
            os.kill(os.getpid(), signal.SIGKILL)

    return log


def train_and_die(study: Study, output: Path) -> None:
    """Trains in a process of its own, which is killed in its 24th step."""
    torch.set_num_threads(1)
    study.train(output, log=killing(24), execution=SAVING)


def decay_and_die(study: Study, output: Path, plateau: Path) -> None:
    """Trains the decay in a process of its own, which is killed in its 32nd step."""
    torch.set_num_threads(1)
    study.train(
        output,
        log=killing(32),
        execution=Execution(checkpoint_steps=2),
        beginning=StartingCheckpoint(folder=plateau, other_data=True),
    )


def killed(study: Study, output: Path) -> Path:
    """The work folder of a run that was killed with checkpoints at steps 10 and 20."""
    process = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(study, output))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    return next((output / "work").iterdir())


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small lose more by threads waiting for each other than they gain."""
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


def test_the_student_has_the_study_s_architecture() -> None:
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


def test_fresh_weights_have_the_study_s_spread() -> None:
    torch.manual_seed(0)
    model = build_student(STUDENT, vocabulary=512, sequence=SEQUENCE, eos=0)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_weight_decay_leaves_embeddings_and_norms_alone() -> None:
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


def test_batches_are_the_windows_in_the_data_seed_s_order(study: Study) -> None:
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


def test_attention_stays_within_a_document_where_the_student_says_so() -> None:
    """What follows a document is predicted as if nothing stood before it."""
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
def test_what_a_student_saw_is_listed_in_its_order_with_the_documents(
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
def test_the_checkpoint_loads_alone_and_its_loss_is_that_of_the_curve(
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
def test_the_same_seeds_give_the_same_weights_and_each_seed_others(
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
def test_a_killed_run_ends_with_the_weights_and_the_curve_of_an_uninterrupted_one(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    output, facts = trained
    work = killed(study, tmp_path)
    assert not (tmp_path / "model").exists()
    followed: list[LossPoint] = []
    assert sorted(folder.name for folder in work.iterdir()) == ["checkpoint-10", "checkpoint-20"]

    # The latest one is torn as by a full disk: the one before it counts.
    (work / "checkpoint-20" / "optimizer.pt").write_bytes(b"half")
    messages: list[str] = []
    resumed = study.train(tmp_path, log=messages.append, follow=followed.append, execution=SAVING)
    assert messages[:2] == ["checkpoint checkpoint-20 is incomplete and set aside", "taken up at step 10"]
    assert resumed.resumed_from == 10
    assert resumed.curve == facts.curve == tuple(followed)
    assert weights(tmp_path) == weights(output)
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_batch_in_parts_gives_the_student_of_a_whole_one(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    facts = study.train(tmp_path, execution=Execution(micro_batch=1))
    assert [point.loss for point in facts.curve] == pytest.approx([p.loss for p in trained[1].curve], rel=1e-3)
    assert facts.steps == 40


@pytest.mark.slow
def test_a_student_trains_in_bfloat16_and_is_kept_in_float32(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    facts = study.train(tmp_path, execution=Execution(bf16=True))
    assert facts.final_loss == pytest.approx(trained[1].final_loss, rel=0.02)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.float32
    assert weights(tmp_path) != weights(trained[0])


def test_parts_that_do_not_make_a_batch_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a batch of 4 sequences has no whole number of 3: correct micro_batch"):
        study.train(tmp_path, execution=Execution(micro_batch=3))


@pytest.mark.slow
def test_document_masking_is_identity(study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path) -> None:
    study.train(tmp_path, student=STUDENT.model_copy(update={"document_masking": False}))
    assert weights(tmp_path) != weights(trained[0])


@pytest.mark.slow
def test_another_seed_never_takes_up_a_killed_run(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    killed(study, tmp_path)
    assert study.train(tmp_path, data=2, execution=SAVING).resumed_from == 0
    assert weights(tmp_path) != weights(trained[0])


@pytest.mark.slow
def test_a_diverged_run_says_so_and_leaves_no_model(study: Study, tmp_path: Path) -> None:
    wild = STUDENT.model_copy(update={"learning_rate": 1e30, "final_learning_rate": 1e30})
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        study.train(tmp_path, student=wild)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_run_from_its_plateau_ends_with_the_weights_and_the_curve_of_one_in_one_go(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    output, facts = trained
    plateau = study.train_to_decay(tmp_path / "plateau")
    assert (plateau.steps, plateau.curve) == (28, facts.curve[:28])
    assert sorted(file.name for file in (tmp_path / "plateau").iterdir()) == ["model", "order.parquet", "state"]
    gone_on = study.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "plateau"))
    assert gone_on.resumed_from == 28
    assert gone_on.curve == facts.curve
    assert weights(tmp_path / "run") == weights(output)


@pytest.mark.slow
def test_a_decay_variant_sees_the_new_mixture_after_the_plateau_alone_killed_or_not(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    plateau = tmp_path / "plateau"
    study.train_to_decay(plateau)
    other = study.on(tmp_path / "other", seed=5)
    decayed = other.train(tmp_path / "decayed", beginning=StartingCheckpoint(folder=plateau, other_data=True))
    assert decayed.steps == 40
    assert decayed.curve[:28] == trained[1].curve[:28]
    assert decayed.curve[28:] != trained[1].curve[28:]
    assert weights(tmp_path / "decayed") != weights(trained[0])
    seen, before = order(tmp_path / "decayed"), order(trained[0])
    assert seen[: 28 * 4] == before[: 28 * 4]
    windows = read_windows(other.mixture, sequence=SEQUENCE)
    places = data_order(len(windows), seed=1)[28 * 4 : 40 * 4]
    assert [row["start"] for row in seen[28 * 4 :]] == windows.start[places].tolist()

    process = multiprocessing.get_context("spawn").Process(
        target=decay_and_die, args=(other, tmp_path / "killed", plateau)
    )
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    again = other.train(
        tmp_path / "killed",
        beginning=StartingCheckpoint(folder=plateau, other_data=True),
        execution=Execution(checkpoint_steps=2),
    )
    assert again.resumed_from >= 30
    assert again.curve == decayed.curve
    assert weights(tmp_path / "killed") == weights(tmp_path / "decayed")


@pytest.mark.slow
def test_models_that_are_kept_on_the_way_are_those_of_their_steps_whatever_way_the_run_took(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    facts = study.train(tmp_path / "whole", keep_steps=10)
    assert facts.curve == trained[1].curve
    assert weights(tmp_path / "whole") == weights(trained[0])
    kept = {path.name: path for path in (tmp_path / "whole" / "steps").iterdir()}
    assert sorted(kept) == ["10", "20", "30"]
    assert AutoModelForCausalLM.from_pretrained(kept["20"]).config.use_cache
    assert AutoTokenizer.from_pretrained(kept["20"]).eos_token

    plateau = tmp_path / "plateau"
    study.train_to_decay(plateau, keep_steps=10)
    study.train(tmp_path / "gone_on", keep_steps=10, beginning=StartingCheckpoint(folder=plateau))
    for name, path in kept.items():
        same = tmp_path / "gone_on" / "steps" / name / "model.safetensors"
        assert same.read_bytes() == (path / "model.safetensors").read_bytes()
    early = tmp_path / "early"
    study.train_to_decay(early, keep_steps=10, until=20)
    assert sorted(path.name for path in (early / "steps").iterdir()) == ["10", "20"]
    study.train(tmp_path / "went_on", keep_steps=10, beginning=StartingCheckpoint(folder=early, step=20))
    assert sorted(path.name for path in (tmp_path / "went_on" / "steps").iterdir()) == sorted(kept)
    study.train(tmp_path / "decayed", keep_steps=10, beginning=StartingCheckpoint(folder=plateau, other_data=True))
    assert [path.name for path in (tmp_path / "decayed" / "steps").iterdir()] == ["30"]


@pytest.mark.slow
def test_a_run_that_was_stopped_on_the_way_goes_on_as_if_it_had_not_been(
    study: Study, trained: tuple[Path, TrainingFacts], tmp_path: Path
) -> None:
    early = study.train_to_decay(tmp_path / "early", until=10)
    assert (early.steps, early.curve) == (10, trained[1].curve[:10])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "early" / "model").num_parameters() == early.parameters
    gone_on = study.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "early", step=10))
    assert gone_on.resumed_from == 10
    assert gone_on.curve == trained[1].curve
    assert weights(tmp_path / "run") == weights(trained[0])


@pytest.mark.slow
def test_a_plateau_of_another_length_is_refused(study: Study, tmp_path: Path) -> None:
    study.train_to_decay(tmp_path / "plateau")
    shorter = study.on(tmp_path / "shorter", seed=5, steps=20)
    with pytest.raises(TrainingError, match=r"ends at step 28, this run goes on from step 14: give both mixtures"):
        shorter.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "plateau", other_data=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": {}}, "names topics, of which no tokens are given"),
        ({"mixture": "nowhere"}, "is not there: draw the mixture first"),
        ({"mixture": "torn"}, "cannot be read .*: draw the mixture again"),
        ({"tokenizer": "nowhere"}, r"there is no tokenizer\.json"),
        ({"sequence": 64}, "has windows of 32 tokens, 64 are wanted: draw the mixture again"),
    ],
)
def test_a_course_on_what_is_not_there_is_refused(
    study: Study, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "windows.parquet").write_bytes(b"PAR1")
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(FinephraseError, match=message):
        train_student(tmp_path, replace(study.course(STUDENT, 1, 1, None), **given), log=print)


def test_an_attention_kernel_that_does_not_exist_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="attention 'flash_atention' cannot be used"):
        study.train(tmp_path, execution=Execution(attention="flash_atention"))


@pytest.mark.slow
def test_a_plateau_that_is_torn_or_none_is_refused(study: Study, tmp_path: Path) -> None:
    study.train_to_decay(tmp_path / "plateau", until=10)
    (tmp_path / "plateau" / "state" / "optimizer.pt").write_bytes(b"half")
    for folder in (tmp_path / "plateau", tmp_path / "nowhere"):
        with pytest.raises(TrainingError, match=r"state is no whole plateau: train the plateau again"):
            study.train(tmp_path / "run", beginning=StartingCheckpoint(folder=folder, step=10))
    with pytest.raises(TrainingError, match=r"order\.parquet cannot be read .*: train the plateau again"):
        study.train(tmp_path / "run", beginning=StartingCheckpoint(folder=tmp_path / "nowhere", other_data=True))


def test_a_schedule_without_decay_has_no_plateau(study: Study, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="correct the student's 'decay_fraction'"):
        study.train_to_decay(tmp_path, student=STUDENT.model_copy(update={"decay_fraction": 0}))


def test_a_mixture_under_one_batch_is_refused_with_a_remedy(study: Study, tmp_path: Path) -> None:
    large = STUDENT.model_copy(update={"batch_sequences": 10_000})
    with pytest.raises(TrainingError, match=r"163 windows.*batch_sequences"):
        study.train(tmp_path, student=large)
    assert list(tmp_path.iterdir()) == []


def test_only_a_whole_checkpoint_counts(tmp_path: Path) -> None:
    for step in (5, 40, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_bytes(b"1234")
    messages: list[str] = []
    mark_whole(tmp_path / "checkpoint-5")
    mark_whole(tmp_path / "checkpoint-40")
    found = last_checkpoint(tmp_path, log=messages.append)
    assert found is not None
    assert (found.step, found.folder.name) == (40, "checkpoint-40")
    assert (tmp_path / "torn-0-checkpoint-100").is_dir()
    (tmp_path / "checkpoint-40" / "weights").write_bytes(b"12")
    (tmp_path / "checkpoint-5" / "whole.json").write_text(json.dumps({})[:1])
    assert last_checkpoint(tmp_path, log=messages.append) is None
    assert len(messages) == 4
