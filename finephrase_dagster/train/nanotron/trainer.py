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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.study.artifact import whole_file
from finephrase_dagster.study.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.study.student import Seeds, Student
from finephrase_dagster.train.checkpoint import Checkpoint
from finephrase_dagster.train.mixture import WINDOWS, read_windows
from finephrase_dagster.train.nanotron.checkpoint import forget_older, last_checkpoint, whole
from finephrase_dagster.train.nanotron.cluster import Cluster
from finephrase_dagster.train.nanotron.config import CHECKPOINTS, DATA, TOKENIZER, Plan, Stage, write_config
from finephrase_dagster.train.nanotron.convert import convert
from finephrase_dagster.train.nanotron.data import link_data, token_bytes, weights_of
from finephrase_dagster.train.nanotron.launch import LOG, launch, line_for_other_nodes
from finephrase_dagster.train.nanotron.log import Step, curve, read_step, read_steps
from finephrase_dagster.train.nanotron.plateau import IDENTITY, STATE, Plateau
from finephrase_dagster.train.tokenizer import TOKENIZER_FILE, load_tokenizer
from finephrase_dagster.train.training import (
    DEFAULT,
    Execution,
    LossPoint,
    TrainingDiverged,
    TrainingError,
    TrainingFacts,
    plateau_steps,
    steps_of,
)


def train_student(
    output: Path,
    *,
    student: Student,
    sequence: int,
    seeds: Seeds,
    mixture: Path,
    components: Mapping[str, Path],
    tokenizer: Path,
    log: Callable[[str], None],
    execution: Execution = DEFAULT,
    plateau: Path | None = None,
    other_data: bool = False,
    cluster: Cluster,
) -> TrainingFacts:
    """Trains a student on a cluster; see `training.Trainer` for the arguments.

    Args:
        cluster: where.

    Raises:
        TrainingError: model or batch do not divide over the cluster, nanotron failed, or the plateau is another's.
        TrainingDiverged: the loss became infinite or no number.
        MixtureError, TokensError, TokenizerError: what is trained on is missing or unreadable.
    """
    course = _Course.of(student, sequence, seeds, mixture, components, tokenizer, execution, cluster)
    begun = Plateau.at(plateau, course.plateau) if plateau else None
    origin = [begun.identity] if begun and other_data else []
    run = course.run(output, origin, until=course.steps, begun=begun, log=log)
    facts = run.train(course.stages(begun if other_data else None))
    convert(run.checkpoint, output / "work" / "model", student=student, sequence=sequence, tokenizer=tokenizer)
    _publish(output, facts.curve)
    return facts


def train_plateau(
    output: Path,
    *,
    student: Student,
    sequence: int,
    seeds: Seeds,
    mixture: Path,
    components: Mapping[str, Path],
    tokenizer: Path,
    log: Callable[[str], None],
    execution: Execution = DEFAULT,
    cluster: Cluster,
) -> TrainingFacts:
    """Trains a student until its learning rate would begin to decay; `output/state` holds what goes on from there.

    Arguments and errors as for `train_student`.
    """
    course = _Course.of(student, sequence, seeds, mixture, components, tokenizer, execution, cluster)
    if course.plateau in (0, course.steps):
        raise TrainingError(
            f"of {course.steps} steps {course.steps - course.plateau} are decay: there is no plateau to decay from; "
            "correct the student's 'decay_fraction'"
        )
    run = course.run(output, [], until=course.plateau, begun=None, log=log)
    facts = run.train(course.stages(None))
    for name in (IDENTITY, LOG):
        shutil.copyfile(run.folder / name, run.checkpoint / name)
    shutil.rmtree(output / STATE, ignore_errors=True)
    run.checkpoint.rename(output / STATE)
    shutil.rmtree(output / "work")
    return facts


@dataclass(frozen=True, kw_only=True)
class _Course:
    """One student's way through its data.

    Attributes:
        weights: share of each component.
        plan: what nanotron is told, but for stages, end and resumption, which are a run's.
        plateau: the steps before the learning rate decays.
        identity: what determines the weights.
    """

    student: Student
    sequence: int
    seeds: Seeds
    components: Mapping[str, Path]
    tokenizer: Path
    weights: Mapping[str, float]
    plan: Plan
    plateau: int
    cluster: Cluster
    identity: list[Any]

    @classmethod
    def of(
        cls,
        student: Student,
        sequence: int,
        seeds: Seeds,
        mixture: Path,
        components: Mapping[str, Path],
        tokenizer: Path,
        execution: Execution,
        cluster: Cluster,
    ) -> _Course:
        _check_execution(execution)
        words = load_tokenizer(tokenizer)
        windows = read_windows(mixture, sequence=sequence)
        steps = steps_of(len(windows), student=student)
        used = {name: components[name] for name in windows.names}
        hashes = [sha256_file(mixture / WINDOWS), sha256_file(tokenizer / TOKENIZER_FILE)]
        return cls(
            student=student,
            sequence=sequence,
            seeds=seeds,
            components=used,
            tokenizer=tokenizer,
            weights=weights_of(windows),
            plan=Plan(
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
                checkpoint_steps=execution.checkpoint_steps,
            ),
            plateau=plateau_steps(steps, student=student),
            cluster=cluster,
            identity=["nanotron", student, sequence, seeds, *hashes, cluster.tensor, cluster.pipeline],
        )

    @property
    def steps(self) -> int:
        """All of them."""
        return self.plan.steps

    def stages(self, before: Plateau | None) -> tuple[Stage, ...]:
        """The stages of the data: this mixture's, after another's if that was trained on before."""
        stage = Stage(name="mixture", start=1, weights=self.weights, seed=self.seeds.data)
        if before is None:
            return (stage,)
        return (before.stage(), replace(stage, name="decay", start=before.step + 1))

    def run(
        self, output: Path, origin: list[str], *, until: int, begun: Plateau | None, log: Callable[[str], None]
    ) -> _Run:
        """A run of this course below `output`, up to a step.

        Raises:
            TrainingError: the folder that is its own holds another run.
        """
        identity = fingerprint([*self.identity, *origin])
        folder = output.absolute() / "work" / identity[:SHORT]
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / IDENTITY
        if mark.is_file() and mark.read_text(encoding="utf-8").strip() != identity:
            raise TrainingError(f"{folder} holds another run's checkpoints: remove it")
        with whole_file(mark) as temporary:
            temporary.write_text(f"{identity}\n", encoding="utf-8")
        return _Run(course=self, folder=folder, name=identity[:SHORT], until=until, begun=begun, log=log)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run in its folder.

    Attributes:
        folder: configuration, data, log and checkpoints.
        until: its last step.
        begun: the plateau that it goes on from.
    """

    course: _Course
    folder: Path
    name: str
    until: int
    begun: Plateau | None
    log: Callable[[str], None]
    steps: dict[int, Step] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """The last step's."""
        return self.folder / CHECKPOINTS / str(self.until)

    def train(self, stages: tuple[Stage, ...]) -> TrainingFacts:
        """Trains up to the last step, from where the run was killed or from its plateau."""
        resumed = last_checkpoint(self.folder / CHECKPOINTS, log=self.log)
        if resumed is None and self.begun is not None:
            resumed = Checkpoint(self.begun.state, self.begun.step)
            self.log(f"goes on from the plateau at step {resumed.step}")
        done = resumed.step if resumed else 0
        for log in [*([self.begun.state / LOG] if self.begun else []), self.folder / LOG]:
            if log.is_file():
                with log.open(encoding="utf-8", errors="replace") as lines:
                    self.steps.update(read_steps(lines))
        if done < self.until:
            self._launch(stages, resumed)
        if not whole(self.checkpoint, self.until):
            raise TrainingError(
                f"nanotron ended without a whole checkpoint of step {self.until}: see {self.folder / LOG}"
            )
        return self._facts(done)

    def _launch(self, stages: tuple[Stage, ...], resumed: Checkpoint | None) -> None:
        course, cluster = self.course, self.course.cluster
        plan = replace(
            course.plan,
            name=self.name,
            stages=stages,
            until=self.until,
            resume=str(resumed.folder) if resumed else None,
        )
        write_config(self.folder, plan, cluster)
        cluster.check_installation()
        (self.folder / TOKENIZER).unlink(missing_ok=True)
        (self.folder / TOKENIZER).symlink_to(course.tokenizer.resolve())
        before = self.begun if len(stages) > 1 else None
        epochs = link_data(
            self.folder / DATA,
            components=course.components,
            weights=course.weights,
            # The loader reads ahead.
            sequences=(self.until - (stages[-1].start - 1) + 1) * course.student.batch_sequences,
            read_before=before.read(course.sequence) if before else {},
            sequence=course.sequence,
            seed=course.seeds.data,
        )
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        said = ", ".join(f"{name} {part:.0%}, {epochs[name]:.2f} epochs" for name, part in course.weights.items())
        self.log(f"nanotron trains on {cluster.world} GPUs: {said}")
        if cluster.nodes > 1:
            self.log(f"start on each other node: {line_for_other_nodes(cluster, self.folder, run=self.name)}")
        every = max(1, self.until // 20)
        launch(cluster, self.folder, run=self.name, follow=partial(self._hear, every))

    def _hear(self, every: int, line: str) -> None:
        """Keeps what a line says of a step, tells how training goes, stops a diverged run, drops old checkpoints."""
        if "Saving checkpoint at " in line and (number := line.rstrip().rpartition("/")[2]).isdecimal():
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
        if step.step % every == 0 or step.step == self.until:
            self.log(
                f"step {step.step} of {self.until}: loss {step.loss:.3f}, {step.tokens_per_second:,.0f} tokens/s, "
                f"MFU {step.utilisation(self.course.cluster.peak_tflops):.0%}"
            )

    def _facts(self, done: int) -> TrainingFacts:
        course = self.course
        step_tokens = course.student.batch_sequences * course.sequence
        warmup = round(course.student.warmup_fraction * course.steps)
        points = curve(
            self.steps,
            until=self.until,
            of=course.steps,
            plateau=course.plateau,
            step_tokens=step_tokens,
            first_rate=0.0 if warmup else course.student.learning_rate,
        )
        if not points:
            raise TrainingError(
                f"{self.folder / LOG} tells no step's loss: is {course.cluster.source} nanotron's main?"
            )
        own = [step for number, step in self.steps.items() if done < number <= self.until]
        seconds = sum(step_tokens / step.tokens_per_second for step in own if step.tokens_per_second > 0)
        tail = points[-math.ceil(len(points) / 10) :]
        return TrainingFacts(
            parameters=course.student.parameters(course.plan.vocabulary),
            steps=self.until,
            tokens=self.until * step_tokens,
            resumed_from=done,
            seconds=seconds,
            tokens_per_second=len(own) * step_tokens / seconds if seconds else 0.0,
            gpus=course.cluster.world,
            final_loss=sum(point.loss for point in tail) / len(tail),
            curve=points,
        )


def _check_execution(execution: Execution) -> None:
    if execution.bf16 is False:
        raise TrainingError("nanotron's attention computes in bfloat16 alone: leave 'bf16' out")
    if execution.compile or execution.attention:
        raise TrainingError("nanotron brings its own kernels: leave 'compile' and 'attention' out")


def _publish(output: Path, points: tuple[LossPoint, ...]) -> None:
    """Puts curve and model under their names, the model last, and removes `work`."""
    with whole_file(output / "losses.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(point) for point in points]), temporary)
    shutil.rmtree(output / "model", ignore_errors=True)
    (output / "work" / "model").rename(output / "model")
    shutil.rmtree(output / "work")
