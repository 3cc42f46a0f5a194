"""Where a stage runs: its GPU pool, its pod settings on a cluster, and its priority. None of it is identity.

Which failures are retried is decided in `retries.py`, and who may use a GPU of this machine in `devices.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from finephrase_dagster.artifacts import key as keys
from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.sweep import running_generator
from finephrase_dagster.pods.cluster import Cluster, cluster_from_environment
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.spec import Study

PRIORITY_TAG = "dagster/priority"
STEPS = 10
"""Number of priorities within a stage."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an asset's runs execute."""

    gpus: int = 0
    op_tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pool(self) -> str | None:
        """The pool in which a run holds a slot; one pool per number of GPUs, because slots have no weight."""
        return f"gpu_{self.gpus}" if self.gpus else None

    @property
    def arguments(self) -> dict[str, Any]:
        """The placement as arguments of `dg.multi_asset`."""
        return {"pool": self.pool, "op_tags": dict(self.op_tags) or None}


def rephrasing(generator: Generator) -> Placement:
    """Return the placement of a cell.

    Its engine uses the generator's GPUs; on a cluster, those of the step's pod or of a separate pod.
    """

    def pod(cluster: Cluster) -> Pod:
        return Pod.preparing(cluster) if cluster.rephrasing == "pipes" else Pod.of(cluster, generator)

    return Placement(gpus=generator.gpus, op_tags=_pod_tags(pod))


def sweeping(generators: Iterable[Generator]) -> Placement:
    """Return the placement of throughput sweeps: the GPUs and the pod of the largest generator's engine."""
    largest = max(generators, key=lambda generator: (generator.gpus, generator.parameters or 0))
    return Placement(gpus=largest.gpus, op_tags=_pod_tags(lambda cluster: Pod.of(cluster, largest)))


def training(study: Study) -> Placement:
    """Return the placement of students: one GPU, or with nanotron the GPUs of the Job that the step starts."""

    def pod(cluster: Cluster) -> Pod:
        return Pod.computing(cluster, gpus=0 if study.trainer == "nanotron" else 1)

    return Placement(gpus=training_gpus(study), op_tags=_pod_tags(pod))


def evaluating() -> Placement:
    """Return the placement of scores."""
    return Placement(gpus=1, op_tags=_pod_tags(Pod.computing))


def preparing() -> Placement:
    """Return the placement of stages without a GPU: all but rephrasing, training and evaluation."""
    return Placement(op_tags=_pod_tags(Pod.preparing))


def executor() -> dg.ExecutorDefinition:
    """Return the executor: pods if a cluster file is named, else the run's own process.

    Raises:
        StudyError: the cluster file is invalid.
    """
    cluster = cluster_from_environment()
    if cluster is None:
        return dg.in_process_executor  # each run is already a separate process
    from finephrase_dagster.orchestration.pod_executor import (
        build_executor,  # which needs a client that nothing else needs here
    )

    return build_executor(cluster)


def gpus_of(item: Item, lineage: Lineage) -> int:
    """Return the number of GPUs that an item's run uses."""
    match item.key.kind:
        case keys.DATASET:
            return rephrasing(running_generator(lineage, item.key.generator or "")).gpus
        case keys.EARLY_STUDENT | keys.PRE_DECAY_CHECKPOINT | keys.CHECKPOINT:
            return training(lineage.study).gpus
        case keys.EARLY_SCORES | keys.SCORES:
            return evaluating().gpus
    return preparing().gpus


def training_gpus(study: Study) -> int:
    """Return the number of GPUs that train one student."""
    if study.trainer == "transformers":
        return 1
    return int(os.environ.get("FINEPHRASE_NANOTRON_NODES") or 1) * int(os.environ.get("FINEPHRASE_NANOTRON_GPUS") or 8)


def priority(stage: str, *, share: float = 0.0) -> dict[str, str]:
    """Return the tag that orders queued runs of automation: later stages first, then expensive runs first.

    Runs that a person launches have priority 0 and come before all of them.

    Args:
        share: cost of the run divided by that of the most expensive run of its stage, 0 to 1.
    """
    place = STEPS * (STAGES.index(stage) - len(STAGES)) + min(STEPS - 1, int(STEPS * share))
    return {PRIORITY_TAG: str(place)}


def _pod_tags(size: Callable[[Cluster], Pod]) -> dict[str, Any]:
    """Return the pod settings; none if no cluster file is named.

    They are op tags, because Dagster drops run tags in backfills.
    """
    cluster = cluster_from_environment()
    if cluster is None:
        return {}
    pod = size(cluster)
    return {"dagster-k8s/config": {"container_config": pod.container(), "pod_spec_config": pod.spec()}}
