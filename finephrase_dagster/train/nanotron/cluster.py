"""The cluster that nanotron trains on: its environment, its GPUs, and how model and batches divide over them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.artifacts.versions import NANOTRON
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.student import Student
from finephrase_dagster.train.job import TrainingError

ENTRY = "run_train.py"
"""nanotron's own training script, at the top of its checkout."""


@dataclass(frozen=True, kw_only=True)
class NanotronCluster:
    """Where nanotron trains. Only `tensor` and `pipeline` change a student: fresh weights are drawn per part.

    Attributes:
        python: the interpreter of nanotron's environment; `torchrun` is in the same folder.
        source: a checkout of nanotron, installed editable there.
        nodes: number of machines; all of them see the run's folder under the same path.
        gpus: GPUs per node.
        tensor: GPUs that share each matrix.
        pipeline: GPUs that share the layers.
        rendezvous: host:port of the first node; required for two or more nodes.
        recompute: whether activations are computed again in the backward pass: less memory, slower.
        pod: the pod of a node, if Kubernetes starts the nodes; None: torchrun is started by this process.
        peak_tflops: bfloat16 TFLOP/s of one GPU without sparsity; 989 is an H100.
    """

    python: Path
    source: Path
    nodes: int = 1
    gpus: int = 8
    tensor: int = 1
    pipeline: int = 1
    rendezvous: str | None = None
    recompute: bool = False
    pod: Pod | None = None
    peak_tflops: float = 989.0

    @property
    def world(self) -> int:
        """Return the number of all GPUs."""
        return self.nodes * self.gpus

    @property
    def data(self) -> int:
        """Return the number of replicas of the model, each with its own part of a batch."""
        return self.world // (self.tensor * self.pipeline)

    @property
    def torchrun(self) -> Path:
        """Return the launcher of nanotron's environment."""
        return self.python.parent / "torchrun"

    def check_installation(self) -> None:
        """Check that nanotron can be started here. In pods, nanotron comes from their image and is not checked.

        Raises:
            TrainingError: the environment or the checkout is missing, or several nodes have no rendezvous.
        """
        if self.pod is not None:
            return
        if not self.torchrun.is_file():
            raise TrainingError(
                f"nanotron's environment has no {self.torchrun}: build it as docs/nanotron.md describes, and set "
                "'python' to its interpreter"
            )
        if not (self.source / ENTRY).is_file():
            raise TrainingError(f"{self.source} has no {ENTRY}: set 'source' to a checkout of nanotron's main branch")
        if (self.source / ".git").exists() and (commit := _commit(self.source)) != NANOTRON:
            raise TrainingError(f"{self.source} is at commit {commit}: run `git -C {self.source} checkout {NANOTRON}`")
        if self.nodes > 1 and not self.rendezvous:
            raise TrainingError(
                f"{self.nodes} nodes need a place to meet: set 'rendezvous' to the first node's host:port"
            )

    def accumulation(self, student: Student, *, micro_batch: int | None) -> tuple[int, int]:
        """Return the micro batch and how many of them a replica accumulates for the student's batch.

        Args:
            micro_batch: sequences on a GPU at once; None: a replica's entire part of the batch.

        Raises:
            TrainingError: the GPUs or the batch do not divide; the message says what would.
        """
        sizes = {"nodes": self.nodes, "gpus": self.gpus, "tensor": self.tensor, "pipeline": self.pipeline}
        for name, size in sizes.items():
            if size < 1:
                raise TrainingError(f"{name} is {size}: set it to 1 or more")
        group = self.tensor * self.pipeline
        if self.world % group:
            raise TrainingError(
                f"{self.world} GPUs do not divide into groups of {group} (tensor {self.tensor} x pipeline "
                f"{self.pipeline}): use a multiple of {group}"
            )
        if self.gpus % self.tensor:
            raise TrainingError(
                f"a node's {self.gpus} GPUs do not divide by tensor {self.tensor}: matrices shared between nodes "
                "train too slowly; lower 'tensor'"
            )
        batch, replicas = student.batch_sequences, self.data
        if batch % replicas:
            fitting = [size for size in range(1, replicas) if batch % size == 0]
            raise TrainingError(
                f"a batch of {batch} sequences does not divide over {replicas} replicas: use "
                f"{fitting[-1] * group} GPUs, or change the student's 'batch_sequences'"
            )
        share = batch // replicas
        micro = share if micro_batch is None else micro_batch
        if micro < 1 or share % micro:
            fitting = [size for size in range(1, share + 1) if share % size == 0 and size <= max(micro, 1)]
            raise TrainingError(
                f"a replica's {share} sequences of each batch do not divide by micro_batch {micro}: "
                f"use {fitting[-1]}, or fewer GPUs"
            )
        return micro, share // micro

    def check_shape(self, student: Student, *, vocabulary: int) -> None:
        """Check that the model divides over the GPUs.

        Raises:
            TrainingError: a width does not divide by `tensor`, or there are fewer layers than `pipeline`.
        """
        widths = {
            "heads": student.heads,
            "kv_heads": student.kv_heads,
            "ffn": student.ffn,
            "vocabulary": vocabulary,
        }
        for name, width in widths.items():
            if width % self.tensor:
                raise TrainingError(
                    f"the student's {name} {width} does not divide by tensor {self.tensor}: lower 'tensor'"
                )
        if self.pipeline > student.layers:
            raise TrainingError(
                f"pipeline {self.pipeline} is more than the student's {student.layers} layers: lower 'pipeline'"
            )


def _commit(checkout: Path) -> str:
    line = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
