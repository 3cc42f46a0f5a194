"""Where a stage runs: the pool whose slot its run holds, and what the cluster's pods are told. None of it is identity.

An asset takes its placement whole: `@dg.multi_asset(..., **rephrasing(generator).arguments)`. Here also stands
which of the waiting runs goes first. Which failures are tried again stands in `retries.py`; who may touch a device of
this machine, whatever the pools say, in `devices.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.graph import STAGES, Item
from finephrase_dagster.study.spec import Study

PRIORITY_TAG = "dagster/priority"
STEPS = 10
"""How many weights are told apart within a stage."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What Dagster is told of an asset's runs.

    Attributes:
        gpus: that a run keeps busy; 0 where no device is needed.
        op_tags: for the executor.
    """

    gpus: int = 0
    op_tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pool(self) -> str | None:
        """Of which a run holds a slot from beginning to end: one pool a size, for slots have no weight."""
        return f"gpu_{self.gpus}" if self.gpus else None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `dg.multi_asset`."""
        return {"pool": self.pool, "op_tags": dict(self.op_tags) or None}


def rephrasing(generator: Generator) -> Placement:
    """Of a cell: its engine holds the generator's GPUs."""
    return Placement(gpus=generator.gpus)


def making_models() -> Placement:
    """Of the generators: some are trained here."""
    return Placement(gpus=1)


def training(study: Study) -> Placement:
    """Of students: one GPU, or all of nanotron's."""
    return Placement(gpus=training_gpus(study))


def evaluating() -> Placement:
    """Of scores."""
    return Placement(gpus=1)


def preparing() -> Placement:
    """Of everything that needs no device: corpora, tokens, mixtures, audits, the leaderboard, the plan."""
    return Placement()


def gpus_of(item: Item, study: Study) -> int:
    """The GPUs that an item's run keeps busy."""
    if item.stage == "synthetic":
        return rephrasing(study.generators[study.cell(item.asset.removeprefix("synthetic/")).generator]).gpus
    if item.asset in ("early/scores", "evaluation/benchmark_scores"):
        return evaluating().gpus
    made = {"generators": making_models, "early": lambda: training(study), "training": lambda: training(study)}
    return made.get(item.stage, preparing)().gpus


def training_gpus(study: Study) -> int:
    """The GPUs that train one student."""
    if study.trainer == "transformers":
        return 1
    return int(os.environ.get("FINEPHRASE_NANOTRON_NODES") or 1) * int(os.environ.get("FINEPHRASE_NANOTRON_GPUS") or 8)


def priority(stage: str, *, share: float = 0.0) -> dict[str, str]:
    """The tag by which waiting runs of automation are ordered: further down the graph first, then the heavy first.

    What a person launches has priority 0 and comes before all of them.

    Args:
        share: how heavy the run is beside the heaviest of its stage, 0 to 1.
    """
    place = STEPS * (STAGES.index(stage) - len(STAGES)) + min(STEPS - 1, int(STEPS * share))
    return {PRIORITY_TAG: str(place)}
