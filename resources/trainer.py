"""The trainer as a resource: which one trains the students, and how this machine does it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.devices import leased, leased_here
from finephrase_dagster.pods.cluster import cluster_from_environment
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.train import training
from finephrase_dagster.train.course import Course, StartingCheckpoint
from finephrase_dagster.train.training import Execution, Follow


class StudentTrainer(dg.ConfigurableResource):
    """transformers' Trainer on this machine."""

    checkpoint_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps between checkpoints that a killed run continues from, 1 or more; None for none",
    )
    micro_batch: int | None = Field(
        default=None, ge=1, description="sequences on the device at once, 1 or more; None for the whole batch"
    )
    bf16: bool | None = Field(default=None, description="compute products in bfloat16; None: where there is a GPU")
    compile: bool = Field(default=False, description="compile the model first")
    attention: str | None = Field(
        default=None,
        description="transformers' attention kernel, such as flash_attention_2; None for PyTorch's fused one",
    )

    gpu_hour_dollars: float | None = Field(
        default=None, ge=0, description="the price of a GPU for an hour, 0 or more; for the bill alone"
    )

    def train(
        self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None], follow: Follow
    ) -> Contents:
        """Trains one student run into a folder, from its plateau where one was trained."""
        base = lineage.study.student_runs[run].base
        begun = base.name if base else run
        train_student, _ = self._trainers()
        beginning = None
        if begun in lineage.study.pre_decay_runs:
            beginning = StartingCheckpoint(
                folder=lineage.pre_decay_checkpoint(begun).folder, other_data=base is not None
            )
        elif lineage.study.early_stop and run in lineage.study.rivals:
            beginning = StartingCheckpoint(folder=lineage.early(run).folder, step=lineage.study.early_stop.step)
        with self._device(run, log):
            facts = train_student(
                folder, _course(lineage, run), log=log, follow=follow, execution=self._execution, beginning=beginning
            )
        return Contents(files=_files(folder), facts=asdict(facts))

    def train_to_decay(
        self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None], follow: Follow
    ) -> Contents:
        """Trains one student run until its learning rate would decay."""
        return self._train_until(None, lineage, run, folder, log, follow)

    def train_early(
        self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None], follow: Follow
    ) -> Contents:
        """Trains one student run until it is compared with others."""
        assert lineage.study.early_stop is not None
        return self._train_until(lineage.study.early_stop.step, lineage, run, folder, log, follow)

    def _train_until(
        self,
        step: int | None,
        lineage: Lineage,
        run: str,
        folder: Path,
        log: Callable[[str], None],
        follow: Follow,
    ) -> Contents:
        _, train_to_decay = self._trainers()
        with self._device(run, log):
            facts = train_to_decay(
                folder, _course(lineage, run), log=log, follow=follow, execution=self._execution, until=step
            )
        return Contents(files=_files(folder), facts=asdict(facts))

    def _device(self, run: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        """What is held while a student is trained."""
        return leased_here(f"the training of {run}", log=log)

    def _trainers(self) -> tuple[training.Trainer, training.PreDecayTrainer]:
        """What trains a student, and what trains it up to its plateau."""
        from finephrase_dagster.train.trainer import train_student, train_to_decay

        return train_student, train_to_decay

    @property
    def _execution(self) -> Execution:
        return Execution(
            checkpoint_steps=self.checkpoint_steps,
            micro_batch=self.micro_batch,
            bf16=self.bf16,
            compile=self.compile,
            attention=self.attention,
        )


class NanotronTrainer(StudentTrainer):
    """nanotron on a cluster, in an environment of its own; docs/nanotron.md tells how to build it."""

    python: str = Field(description="the interpreter of nanotron's environment; torchrun lies beside it")
    source: str = Field(description="a checkout of nanotron, installed editable there")
    nodes: int = Field(default=1, ge=1, description="machines that see the run's folder under the same path")
    gpus: int = Field(default=8, ge=1, description="of a node")
    tensor: int = Field(default=1, ge=1, description="GPUs that share each matrix")
    pipeline: int = Field(default=1, ge=1, description="GPUs that share the layers")
    rendezvous: str | None = Field(
        default=None, description="host:port of the first node, from two nodes on; in a cluster it follows"
    )
    recompute: bool = Field(default=False, description="compute activations again in the backward pass")

    def _device(self, run: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        if self._pod():
            return nullcontext()  # its devices are those of its own pods
        return leased(f"the training of {run}", self.gpus, log=log)  # those of this node

    def _trainers(self) -> tuple[training.Trainer, training.PreDecayTrainer]:
        from finephrase_dagster.train.nanotron.cluster import NanotronCluster
        from finephrase_dagster.train.nanotron.trainer import train_student, train_to_decay

        cluster = NanotronCluster(
            python=Path(self.python),
            source=Path(self.source),
            nodes=self.nodes,
            gpus=self.gpus,
            tensor=self.tensor,
            pipeline=self.pipeline,
            rendezvous=self.rendezvous,
            recompute=self.recompute,
            pod=self._pod(),
        )
        return partial(train_student, cluster=cluster), partial(train_to_decay, cluster=cluster)

    def _pod(self) -> Pod | None:
        """Of a node, where a cluster is named."""
        cluster = cluster_from_environment()
        return Pod.computing(cluster, gpus=self.gpus, image=cluster.nanotron_image) if cluster else None


def _course(lineage: Lineage, run: str) -> Course:
    student_run = lineage.study.student_runs[run]
    components = lineage.study.components(student_run.mixture)
    return Course(
        student=lineage.study.students[student_run.student],
        sequence=lineage.sequence,
        seeds=student_run.seeds,
        mixture=lineage.mixture(student_run.mixture).folder,
        components={name: lineage.tokens(component).folder for name, component in components.items()},
        tokenizer=lineage.tokenizer().folder,
        keep_steps=lineage.evaluation.every,
    )


def _files(folder: Path) -> list[Path]:
    """What a training left, but for what it works with."""
    work = folder / "work"
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and work not in path.parents
    ]
