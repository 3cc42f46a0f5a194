"""Callbacks of transformers' Trainer: report progress, mark complete checkpoints, keep models on the way."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finephrase_dagster.train.checkpoint import mark_complete
from finephrase_dagster.train.job import LossPoint, TrainingDiverged
from finephrase_dagster.train.output import UNFINISHED


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """The loss curve of a run.

    Attributes:
        cadence: steps between two points.
        ends: further steps that have a point.
        step_tokens: tokens per step.
    """

    cadence: int
    ends: tuple[int, ...]
    step_tokens: int

    def has(self, step: int) -> bool:
        """Return whether there is a point at a step."""
        return step % self.cadence == 0 or step in self.ends

    def points(self, history: Iterable[Mapping[str, Any]]) -> Iterator[LossPoint]:
        """Yield the points of what the Trainer logged: mean losses since the entry before, also at other steps."""
        means: list[tuple[float, int]] = []  # since the last point, each with its number of steps
        before = 0
        for entry in history:
            if "loss" not in entry:
                continue
            step = int(entry["step"])
            means.append((entry["loss"], step - before))
            before = step
            if not self.has(step):
                continue
            steps = sum(count for _, count in means)
            loss = means[0][0] if len(means) == 1 else sum(mean * count for mean, count in means) / steps
            yield LossPoint(step=step, loss=loss, learning_rate=entry["learning_rate"], tokens=step * self.step_tokens)
            means.clear()


@dataclass
class TrainingProgress(TrainerCallback):
    """Reports the loss, stops a run that diverged, and marks checkpoints as complete."""

    log: Callable[[str], None]
    on_loss: Callable[[LossPoint], None]
    curve: LossCurve

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for point in self.curve.points(state.log_history):
            self.on_loss(point)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.curve.has(state.global_step):
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, **values: Any) -> None:
        logs = values["logs"]
        if "loss" not in logs:
            return
        step, every = state.global_step, max(1, state.max_steps // 5)
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged.at(step, logs["loss"])
        if not self.curve.has(step):  # logged for a checkpoint
            return
        *_, point = self.curve.points(state.log_history)
        self.on_loss(point)
        if step % every < state.logging_steps or step == state.max_steps:
            self.log(f"step {step} of {state.max_steps}: loss {logs['loss']:.3f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class TimedCheckpoints(TrainerCallback):
    """Writes a checkpoint when enough time has passed.

    The loss is logged there, too, because a run that resumes does not know the losses of the steps before.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **values: Any) -> None:
        if time.monotonic() - self._last >= self._seconds and state.global_step < state.max_steps:
            control.should_save = control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = time.monotonic()


@dataclass
class IntermediateModels(TrainerCallback):
    """Keeps the model every so many steps, except at the schedule's last, as folders `<step>`."""

    every: int
    steps: int
    words: Any
    folder: Path

    def on_step_end(self, args: Any, state: Any, control: Any, **values: Any) -> None:
        if state.global_step % self.every or state.global_step == self.steps:
            return
        unfinished, kept = self.folder / UNFINISHED, self.folder / str(state.global_step)
        shutil.rmtree(unfinished, ignore_errors=True)
        write_model(unfinished, values["model"], self.words)
        shutil.rmtree(kept, ignore_errors=True)
        unfinished.rename(kept)


def write_model(folder: Path, model: Any, words: Any) -> None:
    """Write a model and its tokenizer in Hugging Face format."""
    used_cache, model.config.use_cache = model.config.use_cache, True  # the Trainer turns it off for training
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    model.config.use_cache = used_cache
