"""How large a pod is, and where it goes: the rules of the cluster file applied to a piece of work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from finephrase_dagster.pods.cluster import Cluster
from finephrase_dagster.study.generator import Generator

USER = 1000
"""The user of the images, and the group that volumes are writable for."""

GRACE_SECONDS = 120
"""Between SIGTERM and SIGKILL: for journals to be closed, and for what a pod started to be ended."""

SHARED = "shared-memory"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod of one container, before it is known what runs in it.

    Attributes:
        image: of the container.
        cpu: cores.
        memory: GiB, those of `shared` among them.
        gpus: of one node.
        shared: GiB of /dev/shm; 0 for the container runtime's own.
    """

    cluster: Cluster
    image: str
    cpu: int
    memory: int
    gpus: int = 0
    shared: int = 0

    @classmethod
    def preparing(cls, cluster: Cluster) -> Pod:
        """For what needs no device."""
        return cls(
            cluster=cluster, image=cluster.images.control, cpu=cluster.cpu.preparing, memory=cluster.memory.preparing
        )

    @classmethod
    def computing(cls, cluster: Cluster, *, gpus: int = 1, parameters: float = 0, image: str | None = None) -> Pod:
        """For an engine, a trainer or an evaluation.

        Args:
            gpus: that work together on one node.
            parameters: of the model, whose weights pass through the pod's memory.
            image: default: the engines'.
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
        """For a generator's engine: tensor, pipeline and data parallel ranks on one node."""
        return cls.computing(cluster, gpus=generator.gpus, parameters=generator.parameters or 0, image=image)

    def container(self) -> dict[str, Any]:
        """The container, as Kubernetes writes it, without name and command."""
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
            # A pod whose memory is bound to what it asks for is the last to be evicted for that of others.
            "resources": {
                "requests": resources,
                "limits": {name: of for name, of in resources.items() if name != "cpu"},
            },
            "envFrom": [
                *({"configMapRef": {"name": name}} for name in environment.config_maps),
                *({"secretRef": {"name": name}} for name in environment.secrets),
            ],
            "volumeMounts": [*mounts, *([{"name": SHARED, "mountPath": "/dev/shm"}] if self.shared else [])],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }

    def spec(self) -> dict[str, Any]:
        """The rest of the pod's spec."""
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
