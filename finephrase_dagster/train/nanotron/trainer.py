"""The trainer for a cluster: nanotron on a mixture's tokens.

nanotron brings the loop, parallelism and checkpoints. This module adds its configuration and data, the rule by which a
checkpoint counts as complete, and the conversion into Hugging Face format. `partial(train, cluster=...)` is a trainer
as `train/job.py` describes it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.train.checkpoint import Checkpoint, last_checkpoint
from finephrase_dagster.train.job import (
    TrainingDiverged,
    TrainingError,
    TrainingExecution,
    TrainingFacts,
    TrainingJob,
)
from finephrase_dagster.train.mixture import read_windows
from finephrase_dagster.train.nanotron.checkpoint import delete_older, is_complete
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.config import CHECKPOINTS, DATA, TOKENIZER, DataStage, NanotronRun, write_config
from finephrase_dagster.train.nanotron.convert import convert
from finephrase_dagster.train.nanotron.data import link_data, token_bytes, weights_of
from finephrase_dagster.train.nanotron.earlier_run import IDENTITY, EarlierRun
from finephrase_dagster.train.nanotron.intermediate import IntermediateConverter, checkpoint_interval
from finephrase_dagster.train.nanotron.launch import LOG, launch, line_for_other_nodes
from finephrase_dagster.train.nanotron.log import Curve, StepRecord, read_step, read_steps
from finephrase_dagster.train.nanotron.order import stage_order
from finephrase_dagster.train.order import read_order
from finephrase_dagster.train.output import MODEL, ORDER, STEPS, WORK, final_loss, identity_of, publish
from finephrase_dagster.train.schedule import last_step, steps_of
from finephrase_dagster.train.tokenizer import load_tokenizer

EXPECTED_UTILISATION = 0.3
"""Share of the GPUs' peak that a training reaches, to choose the steps between checkpoints."""

if TYPE_CHECKING:
    from finephrase_dagster.train.nanotron.indexed_job import IndexedJob


def train(job: TrainingJob, *, cluster: NanotronCluster) -> TrainingFacts:
    """Train a student on a cluster; see `job.Train` for the errors."""
    run = _Run.of(job, cluster)
    facts = run.train()
    convert(run.checkpoint, job.output / WORK / MODEL, job=job)
    stops_early = run.curve.end < run.curve.steps
    if stops_early:
        for name in (IDENTITY, LOG):
            shutil.copyfile(run.folder / name, run.checkpoint / name)
    publish(
        job.output,
        model=job.output / WORK / MODEL,
        steps=run.folder / STEPS,
        state=run.checkpoint if stops_early else None,
        curve=facts.curve,
        order=run.order(),
    )
    return facts


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A job with its inputs read, and its folder.

    Attributes:
        components: the folder of tokens of each component that the mixture drew from.
        weights: share of each of them.
        folder: configuration, data, log and checkpoints.
        identity: hash of what determines the weights.
        earlier: the run that this one continues from.
        before: the same, if it was trained on another mixture.
        curve: the loss curve up to the last step.
        converter: keeps the models on the way.
        records: nanotron's records by step.
    """

    job: TrainingJob
    cluster: NanotronCluster
    components: Mapping[str, Path]
    weights: Mapping[str, float]
    folder: Path
    identity: str
    earlier: EarlierRun | None
    before: EarlierRun | None
    curve: Curve
    converter: IntermediateConverter
    records: dict[int, StepRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, job: TrainingJob, cluster: NanotronCluster) -> _Run:
        """Read the job's inputs and prepare its folder.

        Raises:
            TrainingError: the job does not fit nanotron or its starting checkpoint, or the folder is another run's.
        """
        _check_execution(job.execution)
        student = job.student
        windows = read_windows(job.mixture, sequence=job.sequence)
        steps = steps_of(len(windows), student=student)
        stable = student.stable_steps(steps)
        earlier = EarlierRun.at(job.start, job.start.step or stable) if job.start else None
        before = earlier if job.start and job.start.other_data else None
        parts = ["nanotron", *identity_of(job), cluster.tensor, cluster.pipeline]
        identity = fingerprint([*parts, *([before.identity] if before else [])])
        end, components = last_step(job, steps), job.tokens(windows.names)
        folder = job.output.absolute() / WORK / identity[:SHORT]
        _mark(folder, identity)
        return cls(
            job=job,
            cluster=cluster,
            components=components,
            weights=weights_of(windows),
            folder=folder,
            identity=identity,
            earlier=earlier,
            before=before,
            curve=Curve(
                end=end,
                steps=steps,
                stable_steps=stable,
                step_tokens=job.step_tokens,
                first_rate=0.0 if round(student.warmup_fraction * steps) else student.learning_rate,
            ),
            converter=IntermediateConverter(
                job=job, steps=steps, checkpoints=folder / CHECKPOINTS, folder=folder / STEPS
            ),
        )

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the last step."""
        return self.folder / CHECKPOINTS / str(self.curve.end)

    @property
    def name(self) -> str:
        """A name that the nodes share."""
        return self.identity[:SHORT]

    @property
    def read_before(self) -> dict[str, int]:
        """Sequences of each component that the run on the earlier mixture has read."""
        return self.before.sequences_read(self.job.sequence) if self.before else {}

    def train(self) -> TrainingFacts:
        """Train up to the last step, from this run's last checkpoint or else from the starting checkpoint."""
        if (indexed := self._indexed_job()) and indexed.clear():
            self.job.log("deleted the Kubernetes Job of an earlier attempt")
        resumed = last_checkpoint(self.folder / CHECKPOINTS, log=self.job.log, prefix="", complete=is_complete)
        if resumed is None and self.earlier is not None:
            resumed = Checkpoint(self.earlier.state, self.earlier.step)
            self.job.log(f"continues from the checkpoint of step {resumed.step}")
            if not self.before:
                self.converter.copy_from(self.earlier.folder / STEPS)
        done = resumed.step if resumed else 0
        self.converter.delete_after(done)
        for log in [*([self.earlier.state / LOG] if self.earlier else []), self.folder / LOG]:
            if log.is_file():
                with log.open(encoding="utf-8", errors="replace") as lines:
                    self.records.update(read_steps(lines))
        for point in self.curve.points(self.records, until=done):
            self.job.on_loss(point)
        if done < self.curve.end:
            self._launch(resumed)
        if not is_complete(self.checkpoint, self.curve.end):
            raise TrainingError(
                f"nanotron ended without a complete checkpoint of step {self.curve.end}: see {self.folder / LOG}"
            )
        self.converter.convert_until(self.curve.end)
        return self._facts(done)

    def order(self) -> list[pa.Table]:
        """Return what the student saw, of the earlier mixture and of this one."""
        job, before = self.job, self.before
        this = stage_order(
            components=self.components,
            weights=self.weights,
            places=(self.curve.end - (before.step if before else 0)) * job.student.batch_sequences,
            read_before=self.read_before,
            sequence=job.sequence,
            seed=job.seeds.data,
        )
        return [read_order(before.folder / ORDER), this] if before else [this]

    def _stages(self) -> tuple[DataStage, ...]:
        """Return this mixture's stage, after that of the earlier mixture if there was one."""
        seed, before = self.job.seeds.data, self.before
        if before is None:
            return (DataStage(name="mixture", start=1, weights=self.weights, seed=seed),)
        return (before.stage(), DataStage(name="decay", start=before.step + 1, weights=self.weights, seed=seed))

    def _launch(self, resumed: Checkpoint | None) -> None:
        job, cluster, stages = self.job, self.cluster, self._stages()
        words = load_tokenizer(job.tokenizer)
        settings = NanotronRun(
            job=job,
            name=self.name,
            vocabulary=len(words),
            eos=words.eos_token_id,
            token_bytes=token_bytes(self.components),
            stages=stages,
            steps=self.curve.steps,
            end=self.curve.end,
            checkpoint_steps=checkpoint_interval(job.keep_steps, self._steps_between_checkpoints(words)),
            resume=str(resumed.folder) if resumed else None,
        )
        write_config(self.folder, settings, cluster)
        cluster.check_installation()
        (self.folder / TOKENIZER).unlink(missing_ok=True)
        (self.folder / TOKENIZER).symlink_to(job.tokenizer.resolve())
        epochs = link_data(
            self.folder / DATA,
            components=self.components,
            weights=self.weights,
            # The loader reads one batch ahead.
            sequences=(self.curve.end - (stages[-1].start - 1) + 1) * job.student.batch_sequences,
            read_before=self.read_before,
            sequence=job.sequence,
            seed=job.seeds.data,
        )
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        shares = ", ".join(f"{name} {share:.0%}, {epochs[name]:.2f} epochs" for name, share in self.weights.items())
        job.log(f"nanotron trains on {cluster.world} GPUs: {shares}")
        on_line = partial(self._read_line, max(1, self.curve.end // 20))
        if indexed := self._indexed_job():
            indexed.run(cluster, run=self.name, on_line=on_line)
            return
        if cluster.nodes > 1:
            job.log(f"start on each other node: {line_for_other_nodes(cluster, self.folder, run=self.name)}")
        launch(cluster, self.folder, run=self.name, on_line=on_line)

    def _steps_between_checkpoints(self, words: Any) -> int:
        """Return the execution's `checkpoint_steps`, or the steps of `checkpoint_minutes` at the expected speed."""
        job, cluster = self.job, self.cluster
        operations = 6 * job.student.parameters(len(words)) * job.step_tokens
        step_seconds = operations / (cluster.world * cluster.peak_tflops * 1e12 * EXPECTED_UTILISATION)
        by_time = max(1, int(60 * job.execution.checkpoint_minutes / step_seconds))
        return min(by_time, job.execution.checkpoint_steps or by_time)

    def _indexed_job(self) -> IndexedJob | None:
        """Return the Kubernetes Job that trains, if Kubernetes starts the nodes; None if torchrun is started here."""
        if self.cluster.pod is None:
            return None
        from finephrase_dagster.train.nanotron.indexed_job import IndexedJob  # the Kubernetes client imports slowly

        return IndexedJob(self.cluster.pod, self.folder)

    def _read_line(self, every: int, line: str) -> None:
        """Record a step, report progress, stop a run that diverged, and convert and delete older checkpoints."""
        if "Saving checkpoint at " in line and (number := line.rstrip().rpartition("/")[2]).isdecimal():
            self.converter.convert_until(int(number) - 1)
            delete_older(self.folder / CHECKPOINTS, than=int(number))
        record = read_step(line)
        if record is None:
            return
        if not math.isfinite(record.loss):
            raise TrainingDiverged.at(record.step, record.loss)
        self.records[record.step] = record
        if (point := self.curve.point(record.step, self.records)) is not None:
            self.job.on_loss(point)
        if record.step % every == 0 or record.step == self.curve.end:
            self.job.log(
                f"step {record.step} of {self.curve.end}: loss {record.loss:.3f}, "
                f"{record.tokens_per_second:,.0f} tokens/s, MFU {record.utilisation(self.cluster.peak_tflops):.0%}"
            )

    def _facts(self, done: int) -> TrainingFacts:
        job, end = self.job, self.curve.end
        curve = self.curve.points(self.records)
        if not curve:
            raise TrainingError(
                f"{self.folder / LOG} has no step's loss: check that {self.cluster.source} is nanotron's main branch"
            )
        own = [record for step, record in self.records.items() if done < step <= end and record.tokens_per_second > 0]
        seconds = sum(job.step_tokens / record.tokens_per_second for record in own)
        return TrainingFacts(
            parameters=job.student.parameters(len(load_tokenizer(job.tokenizer))),
            steps=end,
            tokens=end * job.step_tokens,
            resumed_from=done,
            seconds=seconds,
            tokens_per_second=len(own) * job.step_tokens / seconds if seconds else 0.0,
            gpus=self.cluster.world,
            final_loss=final_loss(curve),
            curve=curve,
        )


def _mark(folder: Path, identity: str) -> None:
    """Create a run's folder and write its identity into it.

    Raises:
        TrainingError: the folder is another run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / IDENTITY
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() != identity:
        raise TrainingError(f"{folder} holds another run's checkpoints: delete it")
    with atomic_write(mark) as temporary:
        temporary.write_text(f"{identity}\n", encoding="utf-8")


def _check_execution(execution: TrainingExecution) -> None:
    if execution.compile:
        raise TrainingError("nanotron has its own kernels: leave 'compile' out")
