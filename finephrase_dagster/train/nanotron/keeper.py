"""The models that are kept on the way: checkpoints of every so many steps, converted before they are dropped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.train.course import Course
from finephrase_dagster.train.nanotron.checkpoint import steps_in, whole
from finephrase_dagster.train.nanotron.convert import convert


@dataclass(frozen=True, kw_only=True)
class IntermediateConverter:
    """Keeps a run's models as folders `<step>` in Hugging Face format.

    Attributes:
        every: so many steps, but for the schedule's last.
        steps: of the whole schedule.
        checkpoints: nanotron's.
        folder: where the models go.
    """

    every: int
    steps: int
    checkpoints: Path
    folder: Path
    course: Course

    def keep(self, until: int) -> None:
        """Converts what is to be kept up to a step and is not there yet."""
        for step in sorted(steps_in(self.checkpoints)):
            kept = self.folder / str(step)
            wanted = step % self.every == 0 and step <= until and step != self.steps
            if wanted and not kept.is_dir() and whole(self.checkpoints / str(step), step):
                unfinished, course = self.folder / "unfinished", self.course
                self.folder.mkdir(exist_ok=True)
                convert(
                    self.checkpoints / str(step),
                    unfinished,
                    student=course.student,
                    sequence=course.sequence,
                    tokenizer=course.tokenizer,
                )
                unfinished.rename(kept)

    def take_over(self, models: Path) -> None:
        """Takes the models that an earlier run on the same data kept."""
        if models.is_dir():
            shutil.copytree(models, self.folder, dirs_exist_ok=True)

    def forget_after(self, step: int) -> None:
        """Removes the models of steps that are done again."""
        for later in steps_in(self.folder):
            if later > step:
                shutil.rmtree(self.folder / str(later))


def interval(keep_steps: int | None, checkpoint_steps: int | None) -> int | None:
    """Steps between nanotron's checkpoints: a divisor of `keep_steps`, the nearest to `checkpoint_steps`."""
    if keep_steps is None or checkpoint_steps is None:
        return keep_steps or checkpoint_steps
    divisors = [size for size in range(1, keep_steps + 1) if keep_steps % size == 0]
    return min(divisors, key=lambda size: max(size / checkpoint_steps, checkpoint_steps / size))
