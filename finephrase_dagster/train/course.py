"""A student's course: what it is trained on and how, and what it goes on from; the same for every trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.study.student import Seeds, Student
from finephrase_dagster.train.tokens import TokensError


@dataclass(frozen=True, kw_only=True)
class Course:
    """What determines a student's weights.

    Attributes:
        student: shape, batch, schedule and optimizer.
        sequence: tokens a training sequence.
        seeds: of the data's order and of the weights.
        mixture: the folder with `windows.parquet`.
        components: the folder of tokens of each of the mixture's components.
        tokenizer: the tokenizer's folder.
        keep_steps: the model is kept every so many steps, but for the last; None keeps none. It leaves the
            weights alone.
    """

    student: Student
    sequence: int
    seeds: Seeds
    mixture: Path
    components: Mapping[str, Path]
    tokenizer: Path
    keep_steps: int | None = None

    def tokens(self, names: Iterable[str]) -> dict[str, Path]:
        """The folder of tokens of each of these components.

        Raises:
            TokensError: one has none.
        """
        missing = [name for name in names if name not in self.components]
        if missing:
            raise TokensError(f"the mixture {self.mixture} names {', '.join(missing)}, of which no tokens are given")
        return {name: self.components[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class StartingCheckpoint:
    """A run that was trained up to a step, to go on from.

    Attributes:
        folder: what `train_to_decay` left.
        step: the step at which it ends; None: where the learning rate begins to decay.
        other_data: it was trained on another mixture: what goes on from it is a decay variant.
    """

    folder: Path
    step: int | None = None
    other_data: bool = False
