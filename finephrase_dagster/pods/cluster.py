"""The cluster file: the settings of one Kubernetes cluster, which no study file holds. None enters a fingerprint.

`FINEPHRASE_CLUSTER` names the file; without it everything runs on Dagster's own machine. docs/kubernetes.md explains
the fields; `pods/sizing.py` computes pod sizes from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from finephrase_dagster.study.fields import InvalidFields, Problem, Spec, fields_at, validation_problems
from finephrase_dagster.study.file import StudyError, file_error, read_fields
from finephrase_dagster.study.paths import resolve_path

CLUSTER = "FINEPHRASE_CLUSTER"
"""The environment variable that names the cluster file."""

ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
"""A name that Kubernetes accepts for an object."""

Image = Annotated[str, Field(pattern=r"^[a-z0-9][\w./:-]*(:[\w.-]+|@sha256:[0-9a-f]{64})$")]
"""An image with a tag or a digest, so that its version is fixed."""


class Images(Spec):
    """One image per kind of work; deploy/images holds their Dockerfiles."""

    control: Image = Field(description="image for work that needs no device")
    engine: Image = Field(description="image for generators, students on one machine, and evaluation")
    worker: Image | None = Field(default=None, description="image for engines in pods of their own; default: engine")
    nanotron: Image | None = Field(default=None, description="image for students on several machines")


class Environment(Spec):
    """Config maps and secrets whose entries become environment variables of every pod; values never appear here."""

    config_maps: tuple[ObjectName, ...] = ()
    secrets: tuple[ObjectName, ...] = ()


class Volume(Spec):
    """A volume claim that every pod mounts under the same path."""

    name: ObjectName
    claim: ObjectName
    path: str = Field(pattern=r"^/.+")
    read_only: bool = False


class Toleration(Spec):
    """A node taint that pods tolerate, as Kubernetes writes it."""

    key: str = Field(min_length=1)
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class NodePool(Spec):
    """Nodes of one size."""

    gpus: int = Field(ge=0, description="GPUs per node")
    selector: Mapping[str, str] = Field(default_factory=dict, description="labels that select its nodes")
    tolerations: tuple[Toleration, ...] = ()
    priority_class: ObjectName | None = None


class Memory(Spec):
    """GiB of memory per pod."""

    preparing: int = Field(default=16, ge=1, description="GiB for work without a device")
    base: int = Field(default=8, ge=1, description="GiB for an engine or a trainer")
    per_gpu: int = Field(default=16, ge=0, description="additional GiB per GPU")
    per_billion: float = Field(default=2.5, ge=0, description="additional GiB per billion parameters of a generator")
    shared_per_gpu: int = Field(
        default=8, ge=1, description="GiB of /dev/shm per GPU, with several GPUs; part of memory"
    )


class Cpu(Spec):
    """Cores per pod."""

    preparing: int = Field(default=4, ge=1)
    per_gpu: int = Field(default=8, ge=1)


class Cluster(Spec):
    """A Kubernetes cluster and how a study's pods run on it."""

    namespace: ObjectName
    service_account: ObjectName = Field(description="service account of step pods, which may start pods and Jobs")
    images: Images
    pull_secrets: tuple[ObjectName, ...] = ()
    environment: Environment = Environment()
    volumes: tuple[Volume, ...] = Field(min_length=1, description="one of them holds FINEPHRASE_DATA")
    gpu: str = Field(default="nvidia.com/gpu", min_length=1, description="name of the GPU resource")
    node_pools: tuple[NodePool, ...] = Field(min_length=1)
    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    rephrasing: Literal["step", "pipes"] = Field(
        default="step",
        description="`step`: the engine runs in the step's pod; `pipes`: in a pod of its own, without Dagster",
    )
    kueue_queue: ObjectName | None = Field(
        default=None, description="Kueue's LocalQueue that admits the Jobs of a cell's workers; default: none"
    )
    patience_seconds: int = Field(
        default=300,
        ge=0,
        description="seconds that a pod may be unable to start",
    )

    @model_validator(mode="after")
    def _names_things_once(self) -> Cluster:
        problems = []
        for field in ("name", "path"):
            seen: set[str] = set()
            for index, volume in enumerate(self.volumes):
                value = getattr(volume, field)
                if value in seen:
                    problems.append(Problem(("volumes", index, field), f"{value} appears twice; change one of them"))
                seen.add(value)
        if not any(pool.gpus == 0 for pool in self.node_pools) and len(self.node_pools) > 1:
            problems.append(Problem(("node_pools",), "no pool has 'gpus: 0' for work without a device; add one"))
        if problems:
            raise InvalidFields(problems)
        return self

    @property
    def nanotron_image(self) -> str:
        """Return the image for nanotron.

        Raises:
            StudyError: the cluster file names none.
        """
        if self.images.nanotron is None:
            raise StudyError(
                f"{os.environ.get(CLUSTER, 'the cluster file')}: missing field 'images.nanotron', which the study's "
                "'trainer: nanotron' needs. Add the image."
            )
        return self.images.nanotron

    def pool(self, gpus: int) -> NodePool:
        """Return the pool with the smallest nodes that have at least so many GPUs.

        Raises:
            StudyError: no pool has.
        """
        fitting = [pool for pool in self.node_pools if pool.gpus >= gpus]
        if not fitting:
            largest = max(pool.gpus for pool in self.node_pools)
            raise StudyError(
                f"a pod needs {gpus} GPUs on one node, but the largest of 'node_pools' has {largest}. Lower the "
                f"generator's tensor_parallel_size, or add a pool to {os.environ.get(CLUSTER, 'the cluster file')}."
            )
        return min(fitting, key=lambda pool: pool.gpus)


def cluster_from_environment() -> Cluster | None:
    """Return the cluster whose file `FINEPHRASE_CLUSTER` names; None if it is not set.

    Raises:
        StudyError: the file cannot be read or has invalid fields.
    """
    name = os.environ.get(CLUSTER)
    return read_cluster(resolve_path(name)) if name else None


def read_cluster(path: Path) -> Cluster:
    """Read and validate a cluster file.

    Raises:
        StudyError: the file does not exist, is not YAML, or has missing, unknown or contradictory fields.
    """
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=8)
def _read(path: Path, written: int) -> Cluster:
    fields = read_fields(path, "cluster", example="deploy/kubernetes/cluster.yaml")
    try:
        return Cluster.model_validate(fields)
    except ValidationError as error:
        raise file_error(path, validation_problems(error, fields), known=partial(fields_at, Cluster, fields)) from error
    except InvalidFields as error:
        raise file_error(path, error.problems, known=partial(fields_at, Cluster, fields)) from error
