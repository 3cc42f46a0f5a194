"""The models that are kept on the way: nanotron's checkpoints, converted before they are deleted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.train.checkpoint import steps_in
from finephrase_dagster.train.job import TrainingJob
from finephrase_dagster.train.nanotron.checkpoint import is_complete
from finephrase_dagster.train.nanotron.convert import convert
from finephrase_dagster.train.output import UNFINISHED


@dataclass(frozen=True, kw_only=True)
class IntermediateConverter:
    """Keeps a run's models as folders `<step>` in Hugging Face format.

    Attributes:
        job: its `keep_steps` says which steps are kept; None: none.
        steps: steps of the complete schedule; the model of the last one is not kept here.
        checkpoints: the folder of nanotron's checkpoints.
        folder: where the models go.
    """

    job: TrainingJob
    steps: int
    checkpoints: Path
    folder: Path

    def convert_until(self, last: int) -> None:
        """Convert the checkpoints that are to be kept, up to a step, unless they are converted already."""
        every = self.job.keep_steps
        for step in sorted(steps_in(self.checkpoints)) if every else ():
            kept = self.folder / str(step)
            is_kept = every and step % every == 0 and step <= last and step != self.steps
            if is_kept and not kept.is_dir() and is_complete(self.checkpoints / str(step), step):
                self.folder.mkdir(exist_ok=True)
                convert(self.checkpoints / str(step), self.folder / UNFINISHED, job=self.job)
                (self.folder / UNFINISHED).rename(kept)

    def copy_from(self, models: Path) -> None:
        """Copy the models that an earlier run on the same data kept."""
        if self.job.keep_steps and models.is_dir():
            shutil.copytree(models, self.folder, dirs_exist_ok=True)

    def delete_after(self, step: int) -> None:
        """Delete the models of later steps, which are trained again."""
        for later in steps_in(self.folder):
            if later > step:
                shutil.rmtree(self.folder / str(later))


def checkpoint_interval(keep_steps: int | None, checkpoint_steps: int | None) -> int | None:
    """Return the steps between nanotron's checkpoints: the divisor of `keep_steps` nearest to `checkpoint_steps`."""
    if keep_steps is None or checkpoint_steps is None:
        return keep_steps or checkpoint_steps
    divisors = [size for size in range(1, keep_steps + 1) if keep_steps % size == 0]
    return min(divisors, key=lambda size: max(size / checkpoint_steps, checkpoint_steps / size))
