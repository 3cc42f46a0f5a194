"""The trainer as a resource: which one trains the students, and how this machine runs it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.verification import check_artifact
from finephrase_dagster.orchestration.devices import leased, leased_here
from finephrase_dagster.orchestration.progress import Progress, report
from finephrase_dagster.pods.cluster import cluster_from_environment
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.student import Student
from finephrase_dagster.train.job import (
    LossCallback,
    LossPoint,
    StartingCheckpoint,
    Train,
    TrainingExecution,
    TrainingJob,
)


class StudentTrainer(dg.ConfigurableResource):
    """Trains students on this machine with transformers."""

    checkpoint_minutes: float = Field(
        default=10, gt=0, description="minutes between the checkpoints that a killed run resumes from"
    )
    checkpoint_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps between further checkpoints; None: by time only",
    )
    micro_batch: int | None = Field(
        default=None, ge=1, description="sequences on the device at once; None: a complete batch"
    )
    compile: bool = Field(default=False, description="compile the model first")
    gpu_hour_dollars: float | None = Field(
        default=None, ge=0, description="price of a GPU-hour; used to compute the cost"
    )

    def train(
        self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None], on_loss: LossCallback
    ) -> Contents:
        """Train a student run into a folder, from its pre-decay or early checkpoint if the study has one."""
        base = lineage.study.student_runs[run].base
        stable_run = base.name if base else run
        start = None
        if stable_run in lineage.study.pre_decay_runs:
            folder_before = check_artifact(lineage.pre_decay_checkpoint(stable_run))
            start = StartingCheckpoint(folder=folder_before, other_data=base is not None)
        elif lineage.study.early_stop and run in lineage.study.rivals:
            start = StartingCheckpoint(folder=check_artifact(lineage.early(run)), step=lineage.study.early_stop.step)
        return self._run(lineage, run, folder, start=start, stop=None, log=log, on_loss=on_loss)

    def train_to_decay(
        self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None], on_loss: LossCallback
    ) -> Contents:
        """Train a student run up to the last step before its learning rate decays."""
        return self._run(lineage, run, folder, start=None, stop="decay", log=log, on_loss=on_loss)

    def train_early(
        self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None], on_loss: LossCallback
    ) -> Contents:
        """Train a student run up to the step at which it is compared with others."""
        assert lineage.study.early_stop is not None
        return self._run(lineage, run, folder, start=None, stop=lineage.study.early_stop.step, log=log, on_loss=on_loss)

    def _run(
        self,
        lineage: Lineage,
        run: str,
        folder: Path,
        *,
        start: StartingCheckpoint | None,
        stop: int | Literal["decay"] | None,
        log: Callable[[str], None],
        on_loss: LossCallback,
    ) -> Contents:
        student_run = lineage.study.student_runs[run]
        job = TrainingJob(
            student=lineage.study.students[student_run.student],
            sequence=lineage.sequence,
            seeds=student_run.seeds,
            mixture=check_artifact(lineage.mixture(student_run.mixture)),
            components={
                version: check_artifact(part.tokens) for version, part in lineage.parts(student_run.mixture).items()
            },
            tokenizer=check_artifact(lineage.tokenizer()),
            start=start,
            stop=stop,
            output=folder,
            keep_steps=lineage.evaluation.every,
            execution=TrainingExecution(
                checkpoint_minutes=self.checkpoint_minutes,
                checkpoint_steps=self.checkpoint_steps,
                micro_batch=self.micro_batch,
                compile=self.compile,
            ),
            log=log,
            on_loss=_shown(lineage.study.steps(run), on_loss),
        )
        with self._device(run, log):
            facts = self._trainer(job.student)(job)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_private(path, folder)]
        return Contents(files=files, facts=asdict(facts))

    def _device(self, run: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        """Return what is held while a student is trained."""
        return leased_here(f"the training of {run}", log=log)

    def _trainer(self, student: Student) -> Train:
        from finephrase_dagster.train.trainer import train

        return train


class NanotronTrainer(StudentTrainer):
    """Trains students with nanotron on a cluster; docs/nanotron.md describes how to build its environment."""

    python: str = Field(description="the interpreter of nanotron's environment; torchrun is in the same folder")
    source: str = Field(description="a checkout of nanotron, installed editable there")
    nodes: int = Field(default=1, ge=1, description="number of machines; all see the run's folder under the same path")
    gpus: int = Field(default=8, ge=1, description="GPUs per node")
    rendezvous: str | None = Field(
        default=None,
        description="host:port of the first node, required for two or more nodes; not needed on Kubernetes",
    )
    recompute: bool = Field(default=False, description="compute activations again in the backward pass")

    def _device(self, run: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        if self._pod():
            return nullcontext()  # its devices belong to the pods that it starts
        return leased(f"the training of {run}", self.gpus, log=log)

    def _trainer(self, student: Student) -> Train:
        from finephrase_dagster.train.nanotron.cluster import NanotronCluster
        from finephrase_dagster.train.nanotron.trainer import train

        cluster = NanotronCluster(
            python=Path(self.python),
            source=Path(self.source),
            nodes=self.nodes,
            gpus=self.gpus,
            tensor=student.tensor,
            pipeline=student.pipeline,
            rendezvous=self.rendezvous,
            recompute=self.recompute,
            pod=self._pod(),
        )
        return partial(train, cluster=cluster)

    def _pod(self) -> Pod | None:
        """Return the pod of a node, if the study runs on Kubernetes."""
        cluster = cluster_from_environment()
        return Pod.computing(cluster, gpus=self.gpus, image=cluster.nanotron_image) if cluster else None


def _shown(steps: int, on_loss: LossCallback) -> LossCallback:
    """Return a callback that also shows a point of the loss curve to whoever watches this process."""
    began: list[tuple[float, LossPoint]] = []

    def show(point: LossPoint) -> None:
        on_loss(point)
        began.append((time.monotonic(), point))
        (start, first), (now, _) = began[0], began[-1]
        tokens, elapsed = point.tokens - first.tokens, now - start
        rate = f"loss {point.loss:.3f}" + (f", {tokens / elapsed:,.0f} tokens/s" if tokens and elapsed else "")
        left = (steps - point.step) * elapsed / (point.step - first.step) if point.step > first.step else None
        report(Progress(done=point.step, total=steps, unit="steps", rate=rate, seconds_left=left))

    return show


def _is_private(path: Path, folder: Path) -> bool:
    """Return whether a file below an artifact's folder is not part of its content."""
    parts = path.relative_to(folder).parts
    return parts[0] in ("work", META) or path.name.startswith(".")
