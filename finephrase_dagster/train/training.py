"""What a training run is given and gives back, whichever trainer does it.

A trainer is a function of the type `Trainer`; `trainer.train_student` is the one for one machine.
Here also stands what every trainer must agree on: the order of the data and the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.student import Student
from finephrase_dagster.train.course import Course, StartingCheckpoint


class TrainingError(FinephraseError):
    """A student cannot be trained as asked; the message says what to change."""


class TrainingDiverged(FinephraseError):
    """The loss is no number any more; the message says at which step."""


@dataclass(frozen=True, kw_only=True)
class LossPoint:
    """One point of a loss curve.

    Attributes:
        step: optimizer steps done.
        loss: mean training loss since the point before, nats a token.
        learning_rate: of the last of these steps.
        tokens: tokens seen so far.
    """

    step: int
    loss: float
    learning_rate: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a finished training run has to say.

    Attributes:
        parameters: trainable parameters, tied ones once.
        steps: optimizer steps.
        tokens: tokens seen, steps x sequences a step x tokens a sequence.
        resumed_from: the step that a killed run, or a plateau, was taken up at; 0 if it ran in one go.
        seconds: wall time of the steps that this run did itself.
        tokens_per_second: of these steps.
        gpus: that it trained on; 0 on a CPU.
        final_loss: mean training loss of the last tenth of the curve, nats a token.
        curve: at most about 100 points, the last of them at the last step.
    """

    parameters: int
    steps: int
    tokens: int
    resumed_from: int
    seconds: float
    tokens_per_second: float
    gpus: int
    final_loss: float
    curve: tuple[LossPoint, ...]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a machine trains; nothing of it is identity.

    Attributes:
        checkpoint_steps: steps between what a killed run is taken up at; None writes none.
        micro_batch: sequences that are on the device at once; None: the whole batch.
        bf16: whether products are computed in bfloat16, with weights and sums in float32; None: on a GPU.
        compile: whether the model is compiled first.
        attention: transformers' name of an attention kernel; None: PyTorch's own fused one.
    """

    checkpoint_steps: int | None = None
    micro_batch: int | None = None
    bf16: bool | None = None
    compile: bool = False
    attention: str | None = None


DEFAULT = Execution()


Follow = Callable[[LossPoint], None]
"""Receives each point of a loss curve, in order, as soon as it is known; it must neither raise nor take long."""


def unfollowed(point: LossPoint) -> None:
    """Lets a point pass."""


class Trainer(Protocol):
    """Trains a student on a mixture and leaves a Hugging Face checkpoint in `output/model`.

    Args:
        output: an existing folder, used for this run alone. `model/` (configuration, safetensors, tokenizer),
            `losses.parquet` (the loss curve), `order.parquet` (what it saw) and `steps/<step>/` (the models that
            were kept on the way) appear in it when they are whole; what is needed to take up a killed run lies in
            `work/` until then.
        course: what determines the weights, together with `beginning`.
        log: receives progress, one line at a time.
        follow: receives the loss curve while it grows; of a run that goes on from another or is taken up, first
            what is there of it.
        execution: how this machine does it.
        beginning: what the run goes on from; None: from the first step.
    """

    def __call__(
        self,
        output: Path,
        course: Course,
        *,
        log: Callable[[str], None],
        follow: Follow = unfollowed,
        execution: Execution = DEFAULT,
        beginning: StartingCheckpoint | None = None,
    ) -> TrainingFacts: ...


class PreDecayTrainer(Protocol):
    """Trains a student's first steps, for a `Trainer` to go on from.

    It leaves `output/model` and `output/steps` as a `Trainer` does, `output/order.parquet`, and in `output/state`
    what is needed to go on.

    Args:
        until: how many steps; None: up to where its learning rate would begin to decay.
    """

    def __call__(
        self,
        output: Path,
        course: Course,
        *,
        log: Callable[[str], None],
        follow: Follow = unfollowed,
        execution: Execution = DEFAULT,
        until: int | None = None,
    ) -> TrainingFacts: ...


def data_order(windows: int, *, seed: int) -> np.ndarray:
    """The order in which a student sees a mixture's windows; shape (windows,), a permutation."""
    return np.random.default_rng(seed).permutation(windows)


def steps_of(windows: int, *, student: Student) -> int:
    """Optimizer steps on so many windows; what does not fill a batch is left out.

    Raises:
        TrainingError: there is not one batch.
    """
    steps = windows // student.batch_sequences
    if not steps:
        raise TrainingError(
            f"the mixture has {windows} windows, a batch takes {student.batch_sequences}: raise the mixture's "
            "'tokens' or lower the student's 'batch_sequences'"
        )
    return steps


def stable_steps(steps: int, *, student: Student) -> int:
    """The steps before the learning rate decays, of so many in all."""
    return steps - round(student.decay_fraction * steps)


def last_stable_step(steps: int, *, student: Student) -> int:
    """The same, for a run that is to end there.

    Raises:
        TrainingError: there is no plateau, or no decay behind it.
    """
    plateau = stable_steps(steps, student=student)
    if plateau in (0, steps):
        raise TrainingError(
            f"of {steps} steps {steps - plateau} are decay: there is no plateau to decay from; correct the student's "
            "'decay_fraction'"
        )
    return plateau


def learning_rate_factor(step: int, *, steps: int, student: Student) -> float:
    """Warm-up, stable, decay: the learning rate of a step as a part of the student's `learning_rate`.

    Linear from zero in the first `warmup_fraction` of the steps, linear to `final_learning_rate` in the
    last `decay_fraction`; the last step runs at the final rate. (transformers' own schedule of this
    name warms up from the final rate instead.)

    Args:
        step: steps done before, 0 .. steps - 1.
        steps: all steps.
    """
    warmup = round(student.warmup_fraction * steps)
    decay = steps - stable_steps(steps, student=student)
    if step < warmup:
        return (step + 1) / warmup
    remaining = steps - 1 - step
    if remaining >= decay or not decay:  # a schedule is asked once more, behind the last step
        return 1.0
    final = student.final_learning_rate / student.learning_rate
    return final + (1.0 - final) * max(remaining, 0) / decay
