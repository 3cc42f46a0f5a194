"""The cluster file: all that belongs to one Kubernetes cluster and to no study. None of it is identity.

`FINEPHRASE_CLUSTER` names it; without it everything runs where Dagster runs. What its fields mean stands in
docs/kubernetes.md; how a pod is sized by them, in `pods/sizing.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from finephrase_dagster.study.fields import Spec
from finephrase_dagster.study.file import StudyError, read_fields, wrong_file
from finephrase_dagster.study.paths import resolve_path
from finephrase_dagster.study.problems import InvalidFields, Problem, found_in

CLUSTER = "FINEPHRASE_CLUSTER"
"""The environment variable that names the cluster file."""

ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
"""What Kubernetes takes for the name of an object."""

Image = Annotated[str, Field(pattern=r"^[a-z0-9][\w./:-]*(:[\w.-]+|@sha256:[0-9a-f]{64})$")]
"""An image with a tag or a digest, so that it is told which one runs."""


class Images(Spec):
    """One image a kind of work; deploy/images builds them."""

    control: Image = Field(description="what needs no device")
    engine: Image = Field(description="generators, students on one machine, evaluation")
    worker: Image | None = Field(default=None, description="engines with pods of their own; default: engine")
    nanotron: Image | None = Field(default=None, description="students on several machines")


class Environment(Spec):
    """Variables of every pod, by the names of the objects that hold them; values never stand here."""

    config_maps: tuple[ObjectName, ...] = ()
    secrets: tuple[ObjectName, ...] = ()


class Volume(Spec):
    """A claim that every pod mounts under the same path."""

    name: ObjectName
    claim: ObjectName
    path: str = Field(pattern=r"^/.+")
    read_only: bool = False


class Toleration(Spec):
    """A taint that does not keep a pod away, as Kubernetes writes it."""

    key: str = Field(min_length=1)
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class NodePool(Spec):
    """Nodes of one kind."""

    gpus: int = Field(ge=0, description="of a node")
    selector: Mapping[str, str] = Field(default_factory=dict, description="labels of its nodes")
    tolerations: tuple[Toleration, ...] = ()
    priority_class: ObjectName | None = None


class Memory(Spec):
    """GiB of a pod."""

    preparing: int = Field(default=16, ge=1, description="of work without a device")
    base: int = Field(default=8, ge=1, description="of an engine or a trainer")
    per_gpu: int = Field(default=16, ge=0, description="besides, a GPU")
    per_billion: float = Field(default=2.5, ge=0, description="besides, a billion parameters of a generator")
    shared_per_gpu: int = Field(default=8, ge=1, description="of /dev/shm, a GPU of a pod that has several; it counts")


class Cpu(Spec):
    """Cores of a pod."""

    preparing: int = Field(default=4, ge=1)
    per_gpu: int = Field(default=8, ge=1)


class Cluster(Spec):
    """A Kubernetes cluster, as far as a study's pods are concerned."""

    namespace: ObjectName
    service_account: ObjectName = Field(description="of step pods, which may start pods and Jobs of their own")
    images: Images
    pull_secrets: tuple[ObjectName, ...] = ()
    environment: Environment = Environment()
    volumes: tuple[Volume, ...] = Field(min_length=1, description="one of them holds FINEPHRASE_DATA")
    gpu: str = Field(default="nvidia.com/gpu", min_length=1, description="the resource that a GPU is")
    node_pools: tuple[NodePool, ...] = Field(min_length=1)
    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    rephrasing: Literal["step", "pipes"] = Field(
        default="step", description="whether a step's own pod holds the engine, or a pod of its own without Dagster"
    )
    patience_seconds: int = Field(default=300, ge=0, description="for a pod that cannot start, such as for its image")

    @model_validator(mode="after")
    def _names_things_once(self) -> Cluster:
        problems = []
        for field in ("name", "path"):
            seen: set[str] = set()
            for index, volume in enumerate(self.volumes):
                value = getattr(volume, field)
                if value in seen:
                    problems.append(Problem(("volumes", index, field), f"{value} stands twice; write another"))
                seen.add(value)
        if not any(pool.gpus == 0 for pool in self.node_pools) and len(self.node_pools) > 1:
            problems.append(Problem(("node_pools",), "none has 'gpus: 0', for work without a device; add one"))
        if problems:
            raise InvalidFields(problems)
        return self

    @property
    def nanotron_image(self) -> str:
        """The image of a study's nanotron.

        Raises:
            StudyError: none is named.
        """
        if self.images.nanotron is None:
            raise StudyError(
                f"{os.environ.get(CLUSTER, 'the cluster file')} names no image for the study's 'trainer: nanotron': "
                "add 'images.nanotron'"
            )
        return self.images.nanotron

    def pool(self, gpus: int) -> NodePool:
        """The pool of the smallest nodes that have so many GPUs.

        Raises:
            StudyError: none has.
        """
        fitting = [pool for pool in self.node_pools if pool.gpus >= gpus]
        if not fitting:
            largest = max(pool.gpus for pool in self.node_pools)
            raise StudyError(
                f"a pod needs {gpus} GPUs of one node, and the largest of 'node_pools' has {largest}: lower the "
                f"generator's tensor_parallel_size, or add nodes to {os.environ.get(CLUSTER, 'the cluster file')}"
            )
        return min(fitting, key=lambda pool: pool.gpus)


def cluster_from_environment() -> Cluster | None:
    """The cluster that the environment names; None where everything runs here.

    Raises:
        StudyError: as for `read_cluster`.
    """
    named = os.environ.get(CLUSTER)
    return read_cluster(resolve_path(named)) if named else None


def read_cluster(path: Path) -> Cluster:
    """Reads and checks a cluster file.

    Raises:
        StudyError: no such file, not YAML, or fields that are missing, unknown or contradictory.
    """
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=8)
def _read(path: Path, written: int) -> Cluster:
    fields = read_fields(path, "cluster", example="deploy/kubernetes/cluster.yaml")
    try:
        return Cluster.model_validate(fields)
    except ValidationError as error:
        raise wrong_file("cluster", path, found_in(error, fields)) from error
    except InvalidFields as error:
        raise wrong_file("cluster", path, error.problems) from error
