"""A training job: everything that a trainer is given for one student run, and what it returns.

A trainer is a function that takes a `TrainingJob` and returns `TrainingFacts`: `trainer.train` on one machine,
`nanotron.trainer.train` on a cluster. Every trainer leaves the same files in the job's `output`:

    model/            the student in Hugging Face format: configuration, safetensors, tokenizer
    steps/<step>/     the models that were kept on the way, likewise
    losses.parquet    the loss curve
    order.parquet     what the student saw, see `order.py`
    state/            only after a job that stopped early: what a later job needs to continue from there
    work/             only while the job is unfinished: what a killed job resumes from

Each file or folder gets its final name when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.student import Seeds, Student
from finephrase_dagster.train.tokens import TokensError


class TrainingError(FinephraseError):
    """A student cannot be trained as requested; the message says what to change."""


class TrainingDiverged(FinephraseError):
    """The loss is infinite or not a number; the message says at which step."""

    @classmethod
    def at(cls, step: int, loss: float) -> TrainingDiverged:
        """Return the error for a step."""
        return cls(
            f"the loss is {loss} at step {step}: lower the student's 'learning_rate' or raise its 'warmup_fraction'"
        )


@dataclass(frozen=True, kw_only=True)
class LossPoint:
    """One point of a loss curve.

    Attributes:
        step: optimizer steps done.
        loss: mean training loss since the previous point, in nats per token.
        learning_rate: the learning rate of the last of these steps.
        tokens: tokens seen so far.
    """

    step: int
    loss: float
    learning_rate: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What is known about a training run after it has finished.

    Attributes:
        parameters: trainable parameters; tied ones count once.
        steps: optimizer steps.
        tokens: tokens seen: steps x sequences per step x tokens per sequence.
        resumed_from: the step of the checkpoint that this run continued from; 0 if there was none.
        seconds: wall time of the steps that this run did itself.
        gpus: number of GPUs; 0 on a CPU.
        final_loss: mean training loss of the last tenth of the curve, in nats per token.
        curve: about 100 points at most, the last of them at the last step.
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
class TrainingExecution:
    """How a machine trains. None of this is part of a student's identity.

    Attributes:
        checkpoint_minutes: minutes between the checkpoints that a killed run resumes from.
        checkpoint_steps: steps between further checkpoints; None: by time only.
        micro_batch: sequences on a device at once; None: as many as a batch has.
        compile: whether the model is compiled first.
    """

    checkpoint_minutes: float = 10
    checkpoint_steps: int | None = None
    micro_batch: int | None = None
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class StartingCheckpoint:
    """The output of an earlier job that stopped early, to continue from.

    Attributes:
        folder: that job's `output`.
        step: the step at which it stopped; None: the last step before the learning rate decays.
        other_data: whether it was trained on another mixture: what continues from it is a decay variant.
    """

    folder: Path
    step: int | None = None
    other_data: bool = False


LossCallback = Callable[[LossPoint], None]
"""Receives the points of a loss curve."""


def ignore(_: object) -> None:
    """Do nothing with a message or a point."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training run. The fields up to `stop` determine the student; the others do not.

    Attributes:
        sequence: tokens per training sequence.
        seeds: of the data's order and of the fresh weights.
        mixture: the folder with `windows.parquet`.
        components: the folder of tokens of each of the mixture's components.
        tokenizer: the tokenizer's folder.
        start: what the run continues from; None: fresh weights.
        stop: the last step; "decay": the last step before the learning rate decays; None: the end of the schedule. A
            run that stops early keeps its state for later jobs.
        output: an existing folder, used for this job alone.
        keep_steps: keep the model every so many steps, except at the last; None keeps none.
        log: receives progress, one line at a time.
        on_loss: receives each point of the loss curve, in order, as soon as it is known; first those that the run
            resumes behind. It must not raise and must return quickly.
    """

    student: Student
    sequence: int
    seeds: Seeds
    mixture: Path
    components: Mapping[str, Path]
    tokenizer: Path
    start: StartingCheckpoint | None = None
    stop: int | Literal["decay"] | None = None
    output: Path
    keep_steps: int | None = None
    execution: TrainingExecution = TrainingExecution()
    log: Callable[[str], None] = ignore
    on_loss: LossCallback = ignore

    @property
    def step_tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.student.batch_sequences * self.sequence

    def tokens(self, names: Iterable[str]) -> dict[str, Path]:
        """Return the folder of tokens of each of these components.

        Raises:
            TokensError: a component has none.
        """
        missing = [name for name in names if name not in self.components]
        if missing:
            raise TokensError(f"no tokens are given for {', '.join(missing)}, which the mixture {self.mixture} names")
        return {name: self.components[name] for name in names}


Train = Callable[[TrainingJob], TrainingFacts]
"""A trainer. It raises TrainingError if the mixture does not fill one batch, the starting checkpoint does not fit the
job, or the machine cannot train it; TrainingDiverged if the loss becomes infinite or not a number; and MixtureError,
TokensError or TokenizerError if what it trains on is missing or unreadable."""
