"""Where a stage runs: the pool whose slot its run holds, and what the cluster's pods are told. None of it is identity.

An asset takes its placement whole: `@dg.multi_asset(..., **rephrasing(generator).arguments)`. Here also stands
which of the waiting runs goes first. Which failures are tried again stands in `retries.py`; who may touch a device of
this machine, whatever the pools say, in `devices.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from finephrase_dagster.artifacts import key as keys
from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.pods.cluster import Cluster, cluster_from_environment
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.generator import Generator
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
    """Of a cell: its engine holds the generator's GPUs, in a cluster those of the step's pod or of a pod of its own."""

    def pod(cluster: Cluster) -> Pod:
        return Pod.preparing(cluster) if cluster.rephrasing == "pipes" else Pod.of(cluster, generator)

    return Placement(gpus=generator.gpus, op_tags=_pod_tags(pod))


def making_models() -> Placement:
    """Of the generators: some are trained here."""
    return Placement(gpus=1, op_tags=_pod_tags(Pod.computing))


def training(study: Study) -> Placement:
    """Of students: one GPU, or all of nanotron's, which in a cluster are those of the Job that a step starts."""

    def pod(cluster: Cluster) -> Pod:
        return Pod.computing(cluster, gpus=0 if study.trainer == "nanotron" else 1)

    return Placement(gpus=training_gpus(study), op_tags=_pod_tags(pod))


def evaluating() -> Placement:
    """Of scores."""
    return Placement(gpus=1, op_tags=_pod_tags(Pod.computing))


def preparing() -> Placement:
    """Of everything that needs no device: corpora, tokens, mixtures, audits, the leaderboard, the plan."""
    return Placement(op_tags=_pod_tags(Pod.preparing))


def executor() -> dg.ExecutorDefinition:
    """Where a run's steps run: in pods where a cluster is named, else in the run's own process.

    Raises:
        StudyError: the cluster file is wrong.
    """
    cluster = cluster_from_environment()
    if cluster is None:
        return dg.in_process_executor  # a run is a process of its own already
    from finephrase_dagster.orchestration.pod_executor import (
        build_executor,  # which needs a client that nothing else needs here
    )

    return build_executor(cluster)


def gpus_of(item: Item, study: Study) -> int:
    """The GPUs that an item's run keeps busy."""
    match item.key.kind:
        case keys.DATASET:
            return rephrasing(study.generators[item.key.generator or ""]).gpus
        case keys.MODEL:
            return making_models().gpus
        case keys.EARLY_STUDENT | keys.PRE_DECAY_CHECKPOINT | keys.CHECKPOINT:
            return training(study).gpus
        case keys.EARLY_SCORES | keys.SCORES:
            return evaluating().gpus
    return preparing().gpus


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


def _pod_tags(size: Callable[[Cluster], Pod]) -> dict[str, Any]:
    """What the cluster's pods are told; nothing where no cluster is named.

    Run tags would not do: they are dropped on backfills.
    """
    cluster = cluster_from_environment()
    if cluster is None:
        return {}
    pod = size(cluster)
    return {"dagster-k8s/config": {"container_config": pod.container(), "pod_spec_config": pod.spec()}}
