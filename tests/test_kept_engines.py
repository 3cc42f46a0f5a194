"""Engines that outlive their runs: what decides whether two generators share one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.recipe import dataset_recipe
from finephrase_dagster.rephrase.job import RephraseJob, Target
from finephrase_dagster.rephrase.model_source import EngineSpec
from finephrase_dagster.study.generator import Generator
from rephrase_parts import prompt
from resources.rephraser import _engine_key

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "seed": 0}


def key(*, name: str = "a", folder: str = "model", **settings: Any) -> str:
    generator = Generator(**{"model": "embedded", "context": 512, "max_tokens": 64, **settings})
    recipe = dataset_recipe(
        rows="r", prompt=prompt("plain"), model="m", engine={}, sampling=SAMPLING, context=512, max_tokens=64
    )
    job = RephraseJob(
        files=("rows.jsonl",),
        prompts={"plain": prompt("plain")},
        targets={"plain": Target(folder="out", recipe=recipe)},
        model=name,
        engine=EngineSpec(generator=generator, model=Path(folder), log=Path(f"engine-{name}.log")),
    )
    return _engine_key(job)


def test_generators_of_one_model_share_an_engine_whatever_they_sample() -> None:
    same = {key(), key(name="b"), key(guided=True), key(sampling={"temperature": 0.2}), key(max_tokens=32)}
    assert len(same) == 1


def test_another_model_context_or_flag_needs_another_engine() -> None:
    assert len({key(), key(folder="other"), key(context=1024), key(engine={"max_num_seqs": 4})}) == 4
