"""What determines an output is in its recipe, and nothing else is; docs/architecture.md has the table."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.artifacts import provenance
from finephrase_dagster.artifacts.artifact import build_manifest
from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.processor import known_variables
from finephrase_dagster.artifacts.provenance import other_versions
from finephrase_dagster.artifacts.recipe import dataset_recipe, scorer_recipe, student_recipe
from finephrase_dagster.artifacts.sampling import resolve_sampling
from finephrase_dagster.evaluate.vllm_scorer import _environment
from finephrase_dagster.rephrase import dataset as dataset_module
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.job import RephraseJob, Target
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.study.generator import Generator, Sampling
from finephrase_dagster.study.student import Evaluation, Student
from rephrase_parts import prompt

STUDENT = Student(
    layers=2,
    hidden=16,
    ffn=32,
    heads=2,
    kv_heads=2,
    batch_sequences=2,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
)
PROMPT = prompt("faq", "Ask about [[DOCUMENT]]")


def dataset_fingerprint(**changes: Any) -> str:
    spec = Generator(**{"model": "./model", "context": 512, "max_tokens": 64, **changes})
    recipe = dataset_recipe(
        rows="rows",
        prompt=PROMPT,
        model="model",
        engine=distribution_flags(spec.engine),
        sampling=resolve_sampling(spec.sampling, {}),
        context=spec.context,
        max_tokens=spec.max_tokens,
    )
    return fingerprint(recipe)


@pytest.mark.parametrize(
    "engine",
    [
        {"dtype": "float32"},
        {"load_format": "dummy"},
        {"model_impl": "transformers"},
        {"default_chat_template_kwargs": '{"enable_thinking": false}'},
        {"speculative_config": '{"method": "ngram", "rejection_sample_method": "synthetic"}'},
        {"speculative_config": "not JSON"},
        {"a_flag_of_next_year": 1},
    ],
    ids=str,
)
def test_an_engine_flag_that_may_change_completions_makes_another_dataset(engine: dict[str, Any]) -> None:
    assert dataset_fingerprint(engine=engine) != dataset_fingerprint()


@pytest.mark.parametrize(
    "engine",
    [
        {"dtype": "auto"},
        {"load-format": "safetensors"},
        {"enable_log_requests": True, "max_log_len": 100},
        {"tensor_parallel_size": 2, "max-num-seqs": 7, "gpu_memory_utilization": 0.8},
        {"speculative_config": '{"method": "ngram", "num_speculative_tokens": 3}'},
        {"speculative_config": '{"method": "ngram", "rejection_sample_method": "block"}'},
    ],
    ids=str,
)
def test_an_engine_flag_that_only_places_schedules_loads_or_logs_changes_nothing(engine: dict[str, Any]) -> None:
    assert dataset_fingerprint(engine=engine) == dataset_fingerprint()


def test_two_spellings_of_an_engine_flag_are_one() -> None:
    assert dataset_fingerprint(engine={"model-impl": "vllm"}) == dataset_fingerprint(engine={"model_impl": "vllm"})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Sampling(top_k=0), Sampling(top_k=-1)),
        (Sampling(), Sampling(temperature=1.0, top_p=1.0, top_k=-1, seed=0)),
        (Sampling(temperature=0, top_k=5, top_p=0.5), Sampling(temperature=0)),
    ],
    ids=["top_k", "defaults", "greedy"],
)
def test_sampling_that_draws_alike_is_one_dataset(first: Sampling, second: Sampling) -> None:
    assert dataset_fingerprint(sampling=first) == dataset_fingerprint(sampling=second)


@pytest.mark.parametrize("sampling", [{"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 5}, {"seed": 1}], ids=str)
def test_sampling_that_draws_otherwise_is_another_dataset(sampling: dict[str, Any]) -> None:
    assert dataset_fingerprint(sampling=Sampling(**sampling)) != dataset_fingerprint()


def test_an_engine_receives_only_variables_that_do_not_change_what_it_computes() -> None:
    environment = {"PATH": "/bin", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_BATCH_INVARIANT": "1", "VLLM_NEXT_YEAR": "1"}
    assert known_variables(environment) == {"PATH": "/bin", "VLLM_LOGGING_LEVEL": "DEBUG"}


def test_the_scorer_on_vllm_runs_without_variables_that_may_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    before = dict(os.environ)
    with _environment({"VLLM_LOGGING_LEVEL": "INFO", "VLLM_CPU_KVCACHE_SPACE": "1"}):
        assert "VLLM_BATCH_INVARIANT" not in os.environ
        assert (os.environ["VLLM_LOGGING_LEVEL"], os.environ["VLLM_CPU_KVCACHE_SPACE"]) == ("DEBUG", "1")
        os.environ["SET_BY_THE_ENGINE"] = "1"
    assert dict(os.environ) == before


def test_a_resumed_dataset_records_the_libraries_of_both_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, lines = Dataset(folder=folder_at(tmp_path), recipe={"stage": "synthetic"}), []
    for version in ("0.1", "0.1", "0.2"):
        for module in (dataset_module, provenance):
            monkeypatch.setattr(module, "installed", lambda stage, version=version: {"vllm": version})
        one.begin(lines.append)
    assert one.made_with() == [{"vllm": "0.1"}, {"vllm": "0.2"}]
    assert lines == [f"{one.folder}: earlier rows were made with vllm 0.1 (installed: 0.2); the manifest lists both"]


def test_a_dataset_of_an_endpoint_does_not_claim_the_engine_that_is_installed_here(tmp_path: Path) -> None:
    target = Target(folder=str(tmp_path / "faq"), recipe={"stage": "synthetic", "rows": "rows"})
    job = RephraseJob(files=("in.jsonl",), prompts={"faq": PROMPT}, targets={"faq": target}, model="small")
    made_with = {}
    for endpoints in ((), ("http://127.0.0.1:8000",)):
        changed = job.model_copy(update={"endpoints": endpoints})
        dataset = replace(changed.datasets()["faq"], folder=folder_at(tmp_path / str(len(endpoints))))
        dataset.begin()
        (made_with[len(endpoints)],) = dataset.made_with()
    assert "torch" in made_with[0]
    assert made_with[1].keys() == {"transformers", "tokenizers", "datatrove"}


def test_libraries_are_reported_and_are_not_part_of_the_identity() -> None:
    manifest = build_manifest({"stage": "training"}, {}, [])
    other = build_manifest({"stage": "training"}, {"made_with": [{"torch": "0.1"}]}, [])
    assert (manifest["fingerprint"], manifest["version"]) == (other["fingerprint"], other["version"])
    assert other_versions("training", manifest["made_with"]) == []
    assert other_versions("training", other["made_with"])[0].startswith("torch 0.1 (installed: ")


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"attention": "eager"}, {"weight_decay": 0.2}], ids=str)
def test_what_changes_a_students_weights_is_in_its_recipe(change: dict[str, Any]) -> None:
    changed = STUDENT.model_copy(update=change)
    assert fingerprint(student_recipe(changed, "transformers")) != fingerprint(student_recipe(STUDENT, "transformers"))


@pytest.mark.parametrize("change", [{"tensor": 2}, {"pipeline": 2}], ids=str)
def test_how_nanotron_splits_a_student_is_in_its_recipe(change: dict[str, Any]) -> None:
    changed = STUDENT.model_copy(update=change)
    assert fingerprint(student_recipe(changed, "nanotron")) != fingerprint(student_recipe(STUDENT, "nanotron"))


def test_a_precision_that_is_the_default_is_the_same_student() -> None:
    explicit = STUDENT.model_copy(update={"precision": "float32"})
    assert fingerprint(student_recipe(explicit, "transformers")) == fingerprint(student_recipe(STUDENT, "transformers"))


@pytest.mark.parametrize(
    ("engine", "counts"), [({"dtype": "float32"}, True), ({"gpu_memory_utilization": 0.5}, False)], ids=str
)
def test_only_engine_settings_that_change_scores_are_in_their_recipe(engine: dict[str, Any], counts: bool) -> None:
    plain = Evaluation(items="embedded", tasks=("piqa",), backend="vllm")
    changed = plain.model_copy(update={"engine": engine})
    assert (scorer_recipe(changed) != scorer_recipe(plain)) is counts
