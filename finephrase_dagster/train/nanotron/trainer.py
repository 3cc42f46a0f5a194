"""The trainer for a cluster: nanotron on a mixture's tokens.

nanotron brings loop, parallelism and checkpoints. Ours are what it is told, the rule by which a checkpoint
counts, and the way back into Hugging Face format. `functools.partial(train_student, cluster=...)` is a
`training.Trainer`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.train.checkpoint import Checkpoint
from finephrase_dagster.train.course import Course, StartingCheckpoint
from finephrase_dagster.train.mixture import WINDOWS, read_windows
from finephrase_dagster.train.nanotron.checkpoint import forget_older, last_checkpoint, whole
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.config import CHECKPOINTS, DATA, TOKENIZER, DataStage, NanotronRun, write_config
from finephrase_dagster.train.nanotron.convert import convert
from finephrase_dagster.train.nanotron.data import link_data, token_bytes, weights_of
from finephrase_dagster.train.nanotron.keeper import IntermediateConverter, interval
from finephrase_dagster.train.nanotron.launch import LOG, launch, line_for_other_nodes
from finephrase_dagster.train.nanotron.log import Curve, StepRecord, read_step, read_steps
from finephrase_dagster.train.nanotron.order import read
from finephrase_dagster.train.nanotron.pre_decay import IDENTITY, STATE, PreDecayCheckpoint
from finephrase_dagster.train.order import ORDER, read_order, write_order
from finephrase_dagster.train.tokenizer import TOKENIZER_FILE, load_tokenizer
from finephrase_dagster.train.training import (
    DEFAULT,
    Execution,
    Follow,
    TrainingDiverged,
    TrainingError,
    TrainingFacts,
    last_stable_step,
    stable_steps,
    steps_of,
    unfollowed,
)

if TYPE_CHECKING:
    from finephrase_dagster.train.nanotron.indexed_job import IndexedJob

MODEL, STEPS = "model", "steps"


def train_student(
    output: Path,
    course: Course,
    *,
    log: Callable[[str], None],
    follow: Follow = unfollowed,
    execution: Execution = DEFAULT,
    beginning: StartingCheckpoint | None = None,
    cluster: NanotronCluster,
) -> TrainingFacts:
    """Trains a student on a cluster; a `training.Trainer`, which see for the arguments.

    Args:
        cluster: where.

    Raises:
        TrainingError: model or batch do not divide over the cluster, nanotron failed, or the beginning is another's.
        TrainingDiverged: the loss became infinite or no number.
        MixtureError, TokensError, TokenizerError: what is trained on is missing or unreadable.
    """
    prepared = _Prepared.of(course, execution, cluster)
    begun = PreDecayCheckpoint.at(beginning.folder, beginning.step or prepared.plateau) if beginning else None
    before = begun if beginning and beginning.other_data else None
    seen = [read_order(before.folder / ORDER)] if before else []
    run = prepared.run(output, before, until=prepared.steps, log=log, follow=follow)
    facts = run.train(begun)
    convert(
        run.checkpoint,
        output / "work" / MODEL,
        student=course.student,
        sequence=course.sequence,
        tokenizer=course.tokenizer,
    )
    write_order(output / ORDER, [*seen, prepared.reads(before, until=prepared.steps)])
    with atomic_write(output / "losses.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(point) for point in facts.curve]), temporary)
    _move(run.folder / STEPS, output / STEPS)
    _move(output / "work" / MODEL, output / MODEL)  # last: it says that all is there
    shutil.rmtree(output / "work")
    return facts


def train_to_decay(
    output: Path,
    course: Course,
    *,
    log: Callable[[str], None],
    follow: Follow = unfollowed,
    execution: Execution = DEFAULT,
    until: int | None = None,
    cluster: NanotronCluster,
) -> TrainingFacts:
    """Trains a student's first steps on a cluster; a `training.PreDecayTrainer`, which see.

    Errors as for `train_student`.
    """
    prepared = _Prepared.of(course, execution, cluster)
    end = until or last_stable_step(prepared.steps, student=course.student)
    run = prepared.run(output, None, until=end, log=log, follow=follow)
    facts = run.train(None)
    convert(
        run.checkpoint, output / MODEL, student=course.student, sequence=course.sequence, tokenizer=course.tokenizer
    )
    write_order(output / ORDER, [prepared.reads(None, until=end)])
    for name in (IDENTITY, LOG):
        shutil.copyfile(run.folder / name, run.checkpoint / name)
    _move(run.folder / STEPS, output / STEPS)
    _move(run.checkpoint, output / STATE)
    shutil.rmtree(output / "work")
    return facts


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A course, made ready for a cluster.

    Attributes:
        components: those that the mixture drew from.
        weights: share of each component.
        plan: what nanotron is told, but for stages, end and resumption, which are a run's.
        plateau: the steps before the learning rate decays.
        identity: what determines the weights.
    """

    course: Course
    cluster: NanotronCluster
    components: Mapping[str, Path]
    weights: Mapping[str, float]
    plan: NanotronRun
    plateau: int
    identity: list[Any]

    @classmethod
    def of(cls, course: Course, execution: Execution, cluster: NanotronCluster) -> _Prepared:
        _check_execution(execution)
        student, sequence, seeds = course.student, course.sequence, course.seeds
        words = load_tokenizer(course.tokenizer)
        windows = read_windows(course.mixture, sequence=sequence)
        steps = steps_of(len(windows), student=student)
        used = course.tokens(windows.names)
        hashes = [sha256_file(course.mixture / WINDOWS), sha256_file(course.tokenizer / TOKENIZER_FILE)]
        return cls(
            course=course,
            cluster=cluster,
            components=used,
            weights=weights_of(windows),
            plan=NanotronRun(
                name="",
                student=student,
                sequence=sequence,
                seeds=seeds,
                vocabulary=len(words),
                eos=words.eos_token_id,
                token_bytes=token_bytes(used),
                stages=(),
                steps=steps,
                until=steps,
                micro_batch=execution.micro_batch,
                checkpoint_steps=interval(course.keep_steps, execution.checkpoint_steps),
            ),
            plateau=stable_steps(steps, student=student),
            identity=["nanotron", student, sequence, seeds, *hashes, cluster.tensor, cluster.pipeline],
        )

    @property
    def steps(self) -> int:
        """All of them."""
        return self.plan.steps

    def stages(self, before: PreDecayCheckpoint | None) -> tuple[DataStage, ...]:
        """The stages of the data: this mixture's, after another's if that was trained on before."""
        stage = DataStage(name="mixture", start=1, weights=self.weights, seed=self.course.seeds.data)
        if before is None:
            return (stage,)
        return (before.stage(), replace(stage, name="decay", start=before.step + 1))

    def reads(self, before: PreDecayCheckpoint | None, *, until: int) -> pa.Table:
        """What this mixture's stage reads up to a step, in rows of `order.parquet`."""
        course = self.course
        return read(
            components=self.components,
            weights=self.weights,
            places=(until - (before.step if before else 0)) * course.student.batch_sequences,
            read_before=before.read(course.sequence) if before else {},
            sequence=course.sequence,
            seed=course.seeds.data,
        )

    def run(
        self, output: Path, before: PreDecayCheckpoint | None, *, until: int, log: Callable[[str], None], follow: Follow
    ) -> _Run:
        """A run of this course below `output`, up to a step.

        Args:
            before: the plateau on another mixture that it goes on from.

        Raises:
            TrainingError: the folder that is its own holds another run.
        """
        identity = fingerprint([*self.identity, *([before.identity] if before else [])])
        folder = output.absolute() / "work" / identity[:SHORT]
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / IDENTITY
        if mark.is_file() and mark.read_text(encoding="utf-8").strip() != identity:
            raise TrainingError(f"{folder} holds another run's checkpoints: remove it")
        with atomic_write(mark) as temporary:
            temporary.write_text(f"{identity}\n", encoding="utf-8")
        student = self.course.student
        return _Run(
            prepared=self,
            folder=folder,
            name=identity[:SHORT],
            before=before,
            curve=Curve(
                until=until,
                of=self.steps,
                plateau=self.plateau,
                step_tokens=student.batch_sequences * self.course.sequence,
                first_rate=0.0 if round(student.warmup_fraction * self.steps) else student.learning_rate,
            ),
            keeper=IntermediateConverter(
                every=self.course.keep_steps,
                steps=self.steps,
                checkpoints=folder / CHECKPOINTS,
                folder=folder / STEPS,
                course=self.course,
            )
            if self.course.keep_steps
            else None,
            log=log,
            follow=follow,
        )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run in its folder.

    Attributes:
        folder: configuration, data, log and checkpoints.
        before: the plateau on another mixture that it goes on from.
        curve: its loss curve, up to its last step.
        keeper: of the models on the way, if they are kept.
    """

    prepared: _Prepared
    folder: Path
    name: str
    before: PreDecayCheckpoint | None
    curve: Curve
    keeper: IntermediateConverter | None
    log: Callable[[str], None]
    follow: Follow
    steps: dict[int, StepRecord] = field(default_factory=dict)

    @property
    def until(self) -> int:
        """The last step."""
        return self.curve.until

    @property
    def checkpoint(self) -> Path:
        """The last step's."""
        return self.folder / CHECKPOINTS / str(self.until)

    def train(self, begun: PreDecayCheckpoint | None) -> TrainingFacts:
        """Trains up to the last step, from where the run was killed or else from where it was begun."""
        if (job := self._job()) and job.clear():
            self.log("ended the Job of an earlier attempt")
        resumed = last_checkpoint(self.folder / CHECKPOINTS, log=self.log)
        if resumed is None and begun is not None:
            resumed = Checkpoint(begun.state, begun.step)
            self.log(f"goes on from the plateau at step {resumed.step}")
            if self.keeper and not self.before:
                self.keeper.take_over(begun.folder / STEPS)
        done = resumed.step if resumed else 0
        if self.keeper:
            self.keeper.forget_after(done)
        for log in [*([begun.state / LOG] if begun else []), self.folder / LOG]:
            if log.is_file():
                with log.open(encoding="utf-8", errors="replace") as lines:
                    self.steps.update(read_steps(lines))
        for point in self.curve.points(self.steps, until=done):
            self.follow(point)
        if done < self.until:
            self._launch(resumed)
        if not whole(self.checkpoint, self.until):
            raise TrainingError(
                f"nanotron ended without a whole checkpoint of step {self.until}: see {self.folder / LOG}"
            )
        if self.keeper:
            self.keeper.keep(self.until)
        return self._facts(done)

    def _launch(self, resumed: Checkpoint | None) -> None:
        prepared, cluster = self.prepared, self.prepared.cluster
        course, stages = prepared.course, prepared.stages(self.before)
        plan = replace(
            prepared.plan,
            name=self.name,
            stages=stages,
            until=self.until,
            resume=str(resumed.folder) if resumed else None,
        )
        write_config(self.folder, plan, cluster)
        cluster.check_installation()
        (self.folder / TOKENIZER).unlink(missing_ok=True)
        (self.folder / TOKENIZER).symlink_to(course.tokenizer.resolve())
        epochs = link_data(
            self.folder / DATA,
            components=prepared.components,
            weights=prepared.weights,
            # The loader reads ahead.
            sequences=(self.until - (stages[-1].start - 1) + 1) * course.student.batch_sequences,
            read_before=self.before.read(course.sequence) if self.before else {},
            sequence=course.sequence,
            seed=course.seeds.data,
        )
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        said = ", ".join(f"{name} {part:.0%}, {epochs[name]:.2f} epochs" for name, part in prepared.weights.items())
        self.log(f"nanotron trains on {cluster.world} GPUs: {said}")
        every = max(1, self.until // 20)
        if job := self._job():
            job.run(cluster, run=self.name, follow=partial(self._hear, every))
            return
        if cluster.nodes > 1:
            self.log(f"start on each other node: {line_for_other_nodes(cluster, self.folder, run=self.name)}")
        launch(cluster, self.folder, run=self.name, follow=partial(self._hear, every))

    def _job(self) -> IndexedJob | None:
        """The Job that trains, where Kubernetes starts the nodes; None where torchrun is started here."""
        pod = self.prepared.cluster.pod
        if pod is None:
            return None
        from finephrase_dagster.train.nanotron.indexed_job import IndexedJob  # its client takes long to import

        return IndexedJob(pod, self.folder)

    def _hear(self, every: int, line: str) -> None:
        """Keeps what a line says of a step, tells how training goes, stops a diverged run, drops old checkpoints."""
        if "Saving checkpoint at " in line and (number := line.rstrip().rpartition("/")[2]).isdecimal():
            if self.keeper:
                self.keeper.keep(int(number) - 1)
            forget_older(self.folder / CHECKPOINTS, than=int(number))
        step = read_step(line)
        if step is None:
            return
        if not math.isfinite(step.loss):
            raise TrainingDiverged(
                f"the loss is {step.loss} at step {step.step}: lower the student's 'learning_rate' or raise its "
                "'warmup_fraction'"
            )
        self.steps[step.step] = step
        if (point := self.curve.point(step.step, self.steps)) is not None:
            self.follow(point)
        if step.step % every == 0 or step.step == self.until:
            self.log(
                f"step {step.step} of {self.until}: loss {step.loss:.3f}, {step.tokens_per_second:,.0f} tokens/s, "
                f"MFU {step.utilisation(self.prepared.cluster.peak_tflops):.0%}"
            )

    def _facts(self, done: int) -> TrainingFacts:
        prepared, cluster = self.prepared, self.prepared.cluster
        points = self.curve.points(self.steps)
        if not points:
            raise TrainingError(f"{self.folder / LOG} tells no step's loss: is {cluster.source} nanotron's main?")
        step_tokens = self.curve.step_tokens
        own = [step for number, step in self.steps.items() if done < number <= self.until]
        seconds = sum(step_tokens / step.tokens_per_second for step in own if step.tokens_per_second > 0)
        tail = points[-math.ceil(len(points) / 10) :]
        return TrainingFacts(
            parameters=prepared.course.student.parameters(prepared.plan.vocabulary),
            steps=self.until,
            tokens=self.until * step_tokens,
            resumed_from=done,
            seconds=seconds,
            tokens_per_second=len(own) * step_tokens / seconds if seconds else 0.0,
            gpus=cluster.world,
            final_loss=sum(point.loss for point in tail) / len(tail),
            curve=points,
        )


def _check_execution(execution: Execution) -> None:
    if execution.bf16 is False:
        raise TrainingError("nanotron's attention computes in bfloat16 alone: leave 'bf16' out")
    if execution.compile or execution.attention:
        raise TrainingError("nanotron brings its own kernels: leave 'compile' and 'attention' out")


def _move(made: Path, output: Path) -> None:
    """Puts a folder under its name, if it is there."""
    shutil.rmtree(output, ignore_errors=True)
    if made.is_dir():
        shutil.rmtree(made / "unfinished", ignore_errors=True)
        made.rename(output)
