"""What determines an output is in its recipe, and nothing else is; docs/architecture.md has the table."""

from __future__ import annotations

from typing import Any

import pytest

from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.processor import known_variables
from finephrase_dagster.artifacts.recipe import dataset_recipe, resolve_sampling
from finephrase_dagster.study.generator import Generator, Sampling
from rephrase_parts import prompt

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
