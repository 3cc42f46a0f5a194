"""nanotron's YAML file: the published figures, sizes that do not divide, and the schema that replaces its loader."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.study.student import Seeds, Student
from finephrase_dagster.train.job import TrainingError, TrainingExecution, TrainingJob
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.config import DataStage, NanotronRun, config, write_config
from nanotron_parts import STUDENT
from nanotron_schema import check

# hidden, FFN, tensor parallel, micro batch, parameters
PRESETS = {
    "0.5b": (1024, 3072, 1, 4, 483_714_048),
    "1.7b": (2048, 6144, 1, 2, 1_672_071_168),
    "2.9b": (2560, 9216, 1, 1, 2_860_792_320),
    "6.2b": (4096, 12288, 2, 1, 6_162_714_624),
}
ELSEWHERE = Path("/opt/nanotron")


def published(hidden: int, ffn: int) -> Student:
    """Return a student of the published study."""
    return Student(
        layers=28,
        hidden=hidden,
        ffn=ffn,
        heads=16,
        kv_heads=8,
        batch_sequences=512,
        learning_rate=5e-4,
        final_learning_rate=5e-5,
        warmup_fraction=0.01,
        decay_fraction=0.1,
        weight_decay=0.1,
        document_masking=True,
    )


def plan(student: Student, *, micro_batch: int | None = None, **changes: Any) -> NanotronRun:
    job = TrainingJob(
        student=student,
        sequence=4096,
        seeds=Seeds(data=3, model=7),
        mixture=ELSEWHERE,
        components={},
        tokenizer=ELSEWHERE,
        output=ELSEWHERE,
        execution=TrainingExecution(micro_batch=micro_batch),
    )
    settled: dict[str, Any] = {
        "name": "run",
        "vocabulary": 128_256,
        "eos": 128_001,
        "token_bytes": 4,
        "stages": (DataStage(name="mixture", start=1, weights={"web": 0.3, "small__web/table": 0.7}, seed=3),),
        "steps": 10_000,
        "end": 10_000,
        "checkpoint_steps": 500,
    }
    return NanotronRun(job=job, **{**settled, **changes})


def cluster(**changes: Any) -> NanotronCluster:
    settled: dict[str, Any] = {"python": ELSEWHERE / "bin/python", "source": ELSEWHERE / "src", "nodes": 8, "gpus": 8}
    return NanotronCluster(**{**settled, **changes})


def preset(name: str) -> dict[str, Any]:
    hidden, ffn, tensor, micro, _ = PRESETS[name]
    return config(plan(published(hidden, ffn), micro_batch=micro), cluster(tensor=tensor))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_has_its_published_shape_and_batch_and_passes_the_schema(name: str, tmp_path: Path) -> None:
    hidden, ffn, tensor, micro, parameters = PRESETS[name]
    assert published(hidden, ffn).parameters(128_256) == parameters
    path = write_config(tmp_path, plan(published(hidden, ffn), micro_batch=micro), cluster(tensor=tensor))
    content = yaml.safe_load(path.read_text())
    check(content)
    assert content == preset(name)
    shape, tokens, parallelism = content["model"]["model_config"], content["tokens"], content["parallelism"]
    assert (shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]) == (hidden, ffn, 28)
    assert (shape["attention_bias"], shape["tie_word_embeddings"], shape["_use_doc_masking"]) == (False, True, True)
    assert (parallelism["tp"], parallelism["dp"]) == (tensor, 64 // tensor)
    assert tokens["micro_batch_size"] == micro
    batch = tokens["micro_batch_size"] * tokens["batch_accumulation_per_replica"] * parallelism["dp"]
    assert batch * tokens["sequence_length"] == 2_097_152


def test_schedule_and_optimizer_are_those_of_the_study() -> None:
    optimizer = preset("1.7b")["optimizer"]
    assert optimizer["learning_rate_scheduler"] == {
        "learning_rate": 5e-4,
        "lr_warmup_steps": 100,
        "lr_warmup_style": "linear",
        "lr_decay_style": "linear",
        "lr_decay_starting_step": 9000,
        "lr_decay_steps": 1000,
        "min_decay_lr": 5e-5,
    }
    factory = optimizer["optimizer_factory"]
    assert (factory["adam_beta1"], factory["adam_beta2"], factory["adam_eps"]) == (0.9, 0.95, 1e-8)
    assert (optimizer["weight_decay"], optimizer["clip_grad"]) == (0.1, 1.0)
    assert optimizer["accumulate_grad_in_fp32"]


def test_seeds_weights_and_document_masking_arrive() -> None:
    unmasked = published(1024, 3072).model_copy(update={"document_masking": False})
    assert not config(plan(unmasked, micro_batch=4), cluster())["model"]["model_config"]["_use_doc_masking"]
    content = preset("1.7b")
    stage = content["data_stages"][0]["data"]
    assert (content["general"]["seed"], stage["seed"]) == (7, 3)
    assert stage["dataset"]["dataset_folder"] == ["data/s3/web", "data/s3/small__web/table"]
    assert stage["dataset"]["dataset_weights"] == [0.3, 0.7]


def test_a_schedule_without_warmup_and_decay_never_reaches_the_rate_that_nanotron_would_square() -> None:
    flat = published(1024, 3072).model_copy(update={"warmup_fraction": 0.0, "decay_fraction": 0.0})
    schedule = config(plan(flat, micro_batch=4), cluster())["optimizer"]["learning_rate_scheduler"]
    assert (schedule["lr_warmup_style"], schedule["lr_warmup_steps"]) == ("constant", 0)
    assert (schedule["lr_decay_starting_step"], schedule["lr_decay_steps"]) == (10_000, 1)


@pytest.mark.parametrize(
    ("every", "end", "interval", "final"), [(500, 10_000, 500, False), (500, 9_100, 500, True), (None, 40, 40, False)]
)
def test_the_last_step_is_saved_exactly_once(every: int | None, end: int, interval: int, final: bool) -> None:
    content = config(plan(published(1024, 3072), end=end, checkpoint_steps=every, micro_batch=4), cluster())
    checkpoints = content["checkpoints"]
    assert (checkpoints["checkpoint_interval"], checkpoints["save_final_state"]) == (interval, final)


@given(
    batch=st.integers(1, 2000),
    nodes=st.integers(1, 8),
    gpus=st.integers(1, 8),
    tensor=st.integers(1, 4),
    pipeline=st.integers(1, 4),
    micro=st.none() | st.integers(1, 64),
)
def test_a_batch_is_exactly_the_students_or_is_refused_with_sizes_that_work(
    batch: int, nodes: int, gpus: int, tensor: int, pipeline: int, micro: int | None
) -> None:
    student = STUDENT.model_copy(update={"batch_sequences": batch})
    machines = cluster(nodes=nodes, gpus=gpus, tensor=tensor, pipeline=pipeline)
    try:
        size, accumulation = machines.accumulation(student, micro_batch=micro)
    except TrainingError as error:
        assert any(word in str(error) for word in ("use ", "take a multiple", "lower"))
    else:
        assert size * accumulation * machines.data == batch
        assert machines.data * tensor * pipeline == nodes * gpus


@pytest.mark.parametrize(
    ("machines", "micro", "message"),
    [
        ({"nodes": 3}, 2, "512 sequences does not divide over 24 replicas: use 16 GPUs"),
        ({"nodes": 1, "gpus": 6, "tensor": 4}, 1, "6 GPUs do not divide into groups of 4"),
        ({"nodes": 2, "gpus": 3, "tensor": 2}, 1, "a node's 3 GPUs do not divide by tensor 2"),
        ({}, 3, "8 sequences of each batch do not divide by micro_batch 3: use 2"),
        ({"tensor": 16, "gpus": 16}, 1, "kv_heads 8 does not divide by tensor 16"),
        ({"pipeline": 32}, 1, "pipeline 32 is more than the student's 28 layers"),
        ({"tensor": 0}, 1, "tensor is 0"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_the_remedy(
    machines: dict[str, int], micro: int, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        config(plan(published(2048, 6144), micro_batch=micro), cluster(**machines))


def test_a_vocabulary_that_nanotron_would_pad_is_refused() -> None:
    with pytest.raises(TrainingError, match="vocabulary 128257 does not divide by tensor 2"):
        config(plan(published(4096, 12288), vocabulary=128_257, micro_batch=1), cluster(tensor=2))


def test_a_missing_environment_is_refused_with_the_remedy(tmp_path: Path) -> None:
    machines = NanotronCluster(python=tmp_path / "python", source=tmp_path)
    with pytest.raises(TrainingError, match=r"no .*torchrun: build it as docs/nanotron\.md describes"):
        machines.check_installation()
    (tmp_path / "torchrun").touch()
    with pytest.raises(TrainingError, match=r"has no run_train\.py: set 'source'"):
        machines.check_installation()
    (tmp_path / "run_train.py").touch()
    machines.check_installation()
    with pytest.raises(TrainingError, match="set 'rendezvous'"):
        NanotronCluster(python=tmp_path / "python", source=tmp_path, nodes=2).check_installation()


BROKEN: list[tuple[str, Any, str]] = [
    ("model.model_config.attention_bias", True, "attention_bias"),
    ("model.model_config._use_doc_masking", None, "_use_doc_masking"),
    ("model.model_config.hidden_size", 2049, "hidden_size must be a multiple"),
    ("model.model_config.vocab_size", 64, "eos_token_id lies outside"),
    ("model.model_config.max_position_embeddings", 2048, "max_position_embeddings and sequence_length differ"),
    ("model.dtype", "float32", "model.dtype"),
    ("parallelism.tp", 3, "must be a multiple of tp"),
    ("parallelism.tp_linear_async_communication", True, "REDUCE_SCATTER alone"),
    ("tokens.train_steps", "10000", "tokens.train_steps"),
    ("tokens.micro_batch_size", 0, "tokens.micro_batch_size"),
    ("optimizer.weight_decay", float("nan"), "optimizer.weight_decay"),
    ("optimizer.learning_rate_scheduler.lr_warmup_style", None, "lr_warmup_style"),
    ("optimizer.learning_rate_scheduler.lr_decay_starting_step", 50, "lies in the warm-up"),
    ("optimizer.learning_rate_scheduler.lr_warmup_steps", 0, "a rate of 0"),
    ("data_stages.0.data.dataset.dataset_weights", [1.0], "differ in length"),
    ("data_stages.0.data.dataset.dataset_folder", ["web", "data/s3/b"], "dataset_folder.0"),
    ("data_stages.0.data.dataset.vocab_size", 5, "another vocab_size"),
    ("data_stages.0.data.dataset.tokenizer_name", "other", "another tokenizer"),
    ("data_stages.0.start_training_step", 2, "begin at step 1"),
    ("data_stages", [], "begin at step 1"),
    ("checkpoints.checkpoint_interval", 0, "checkpoint_interval"),
    ("logging.unheard_of", 1, "logging.unheard_of"),
]


@pytest.mark.parametrize(("place", "value", "message"), BROKEN, ids=[place for place, _, _ in BROKEN])
def test_the_schema_refuses_a_broken_file_and_names_the_field(place: str, value: Any, message: str) -> None:
    broken = copy.deepcopy(preset("1.7b"))
    *path, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    section: Any = broken
    for part in path:
        section = section[part]
    section[last] = value
    with pytest.raises(ValueError, match=message):
        check(broken)


def test_no_field_may_be_missing() -> None:
    whole = preset("1.7b")
    for section, fields in whole.items():
        for field in fields if isinstance(fields, dict) else ():
            broken = copy.deepcopy(whole)
            del broken[section][field]
            with pytest.raises(ValueError, match=field):
                check(broken)


def test_a_decay_on_other_data_is_a_second_stage_and_needs_a_checkpoint_to_resume_from() -> None:
    first = DataStage(name="mixture", start=1, weights={"web": 1.0}, seed=3)
    second = DataStage(name="decay", start=9001, weights={"table": 1.0}, seed=3)
    stages = (first, second)
    content = config(plan(published(1024, 3072), stages=stages, micro_batch=4, resume="/pre_decay/state"), cluster())
    check(content)
    assert [stage["start_training_step"] for stage in content["data_stages"]] == [1, 9001]
    with pytest.raises(ValueError, match="resume_checkpoint_path"):
        check(config(plan(published(1024, 3072), stages=stages, micro_batch=4), cluster()))
