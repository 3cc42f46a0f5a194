"""Pod sizes and node pools: the rules of the cluster file applied to a piece of work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from finephrase_dagster.pods.cluster import Cluster
from finephrase_dagster.study.generator import Generator

USER = 1000
"""User id in the images, and the group id that may write the volumes."""

GRACE_SECONDS = 120
"""Seconds between SIGTERM and SIGKILL: enough to close journals and to end what the pod started."""

SHARED = "shared-memory"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """The size and placement of a pod with one container.

    Attributes:
        cpu: number of cores.
        memory: GiB, including `shared`.
        gpus: number of GPUs, all on one node.
        shared: GiB of /dev/shm; 0 keeps the container runtime's default.
    """

    cluster: Cluster
    image: str
    cpu: int
    memory: int
    gpus: int = 0
    shared: int = 0

    @classmethod
    def preparing(cls, cluster: Cluster) -> Pod:
        """Return a pod for work that needs no device."""
        return cls(
            cluster=cluster, image=cluster.images.control, cpu=cluster.cpu.preparing, memory=cluster.memory.preparing
        )

    @classmethod
    def computing(cls, cluster: Cluster, *, gpus: int = 1, parameters: float = 0, image: str | None = None) -> Pod:
        """Return a pod for an engine, a trainer or an evaluation.

        Args:
            gpus: number of GPUs that work together on one node.
            parameters: parameters of the model, whose weights pass through the pod's memory.
            image: default: the cluster's engine image.
        """
        rule = cluster.memory
        shared = rule.shared_per_gpu * gpus if gpus > 1 else 0
        memory = rule.base + rule.per_gpu * gpus + rule.per_billion * parameters / 1e9 + shared
        return cls(
            cluster=cluster,
            image=image or cluster.images.engine,
            cpu=cluster.cpu.per_gpu * max(gpus, 1),
            memory=math.ceil(memory),
            gpus=gpus,
            shared=shared,
        )

    @classmethod
    def of(cls, cluster: Cluster, generator: Generator, *, image: str | None = None) -> Pod:
        """Return a pod for a generator's engine: all tensor, pipeline and data parallel ranks on one node."""
        return cls.computing(cluster, gpus=generator.gpus, parameters=generator.parameters or 0, image=image)

    def container(self) -> dict[str, Any]:
        """Return the container as Kubernetes expects it, without name and command."""
        resources = {"cpu": str(self.cpu), "memory": f"{self.memory}Gi"}
        if self.gpus:
            resources[self.cluster.gpu] = str(self.gpus)
        environment = self.cluster.environment
        mounts = [
            {"name": volume.name, "mountPath": volume.path, **({"readOnly": True} if volume.read_only else {})}
            for volume in self.cluster.volumes
        ]
        return {
            "image": self.image,
            # A pod whose memory limit equals its request is evicted last.
            "resources": {
                "requests": resources,
                "limits": {name: amount for name, amount in resources.items() if name != "cpu"},
            },
            "envFrom": [
                *({"configMapRef": {"name": name}} for name in environment.config_maps),
                *({"secretRef": {"name": name}} for name in environment.secrets),
            ],
            "volumeMounts": [*mounts, *([{"name": SHARED, "mountPath": "/dev/shm"}] if self.shared else [])],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }

    def spec(self) -> dict[str, Any]:
        """Return the rest of the pod's spec."""
        pool = self.cluster.pool(self.gpus)
        claims = [
            {
                "name": volume.name,
                "persistentVolumeClaim": {
                    "claimName": volume.claim,
                    **({"readOnly": True} if volume.read_only else {}),
                },
            }
            for volume in self.cluster.volumes
        ]
        memory = {"name": SHARED, "emptyDir": {"medium": "Memory", "sizeLimit": f"{self.shared}Gi"}}
        return {
            "restartPolicy": "Never",
            "serviceAccountName": self.cluster.service_account,
            "imagePullSecrets": [{"name": name} for name in self.cluster.pull_secrets],
            "nodeSelector": dict(pool.selector),
            "tolerations": [toleration.model_dump(exclude_none=True) for toleration in pool.tolerations],
            **({"priorityClassName": pool.priority_class} if pool.priority_class else {}),
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [*claims, *([memory] if self.shared else [])],
        }
