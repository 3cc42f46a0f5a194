"""Placement: one pool per number of GPUs, and the order of queued runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.placement import evaluating, gpus_of, preparing, priority, rephrasing, training
from finephrase_dagster.study.paths import REPOSITORY, Paths


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    data: Path = tmp_path_factory.mktemp("data")
    return read_lineage(Paths(data=data, study=REPOSITORY / "studies" / "finephrase.yaml"))


def test_every_number_of_gpus_has_its_own_pool(published: Lineage) -> None:
    generators = published.study.generators.values()
    pools = {generator.gpus: rephrasing(generator).pool for generator in generators}
    assert pools == {gpus: f"gpu_{gpus}" for gpus in pools}
    assert len(pools) > 1
    assert evaluating().pool == "gpu_1"
    assert preparing().pool is None


def test_a_nanotron_student_uses_all_gpus_of_the_cluster(published: Lineage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert training(published.study.model_copy(update={"trainer": "transformers"})).pool == "gpu_1"
    monkeypatch.setenv("FINEPHRASE_NANOTRON_NODES", "2")
    monkeypatch.setenv("FINEPHRASE_NANOTRON_GPUS", "4")
    assert training(published.study.model_copy(update={"trainer": "nanotron"})).pool == "gpu_8"


def test_every_item_has_a_number_of_gpus(published: Lineage) -> None:
    for item in items(published):
        busy = item.stage in ("synthetic", "early", "training") or "scores" in item.asset
        assert (gpus_of(item, published) > 0) == busy, item.name


def test_later_stages_run_first_and_expensive_runs_first_within_a_stage() -> None:
    order = [
        int(priority(stage, share=share)["dagster/priority"]) for stage in reversed(STAGES) for share in (1.0, 0.5, 0.0)
    ]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) == len(order)
    assert max(order) < 0, "what a person launches has priority 0"
