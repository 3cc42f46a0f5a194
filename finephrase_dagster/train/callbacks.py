"""What happens beside a training run's steps: telling how it goes, marking checkpoints, keeping models on the way."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import TrainerCallback

from finephrase_dagster.train.checkpoint import mark_whole
from finephrase_dagster.train.training import Follow, LossPoint, TrainingDiverged


class TrainingProgress(TrainerCallback):
    """Tells how training goes, logs the plateau's and the last step, stops a diverged run, marks whole checkpoints."""

    def __init__(self, log: Callable[[str], None], follow: Follow, *, plateau: int, step_tokens: int) -> None:
        self._log = log
        self._follow = follow
        self._plateau = plateau
        self._step_tokens = step_tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for point in points(state.log_history, self._step_tokens):
            self._follow(point)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in (self._plateau, state.max_steps):
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        logs = given["logs"]
        if "loss" not in logs:
            return
        step, every = state.global_step, max(1, state.max_steps // 5)
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged(
                f"the loss is {logs['loss']} at step {step}: lower the student's 'learning_rate' or raise its "
                "'warmup_fraction'"
            )
        for point in points([{**logs, "step": step}], self._step_tokens):
            self._follow(point)
        if step % every < state.logging_steps or step == state.max_steps:
            self._log(f"step {step} of {state.max_steps}: loss {logs['loss']:.3f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class IntermediateModels(TrainerCallback):
    """Keeps the model every so many steps, but for the schedule's last, as folders `<step>` in Hugging Face format."""

    def __init__(self, every: int, steps: int, words: Any, folder: Path) -> None:
        self._every = every
        self._steps = steps
        self._words = words
        self._folder = folder

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step % self._every or state.global_step == self._steps:
            return
        unfinished, kept = self._folder / "unfinished", self._folder / str(state.global_step)
        shutil.rmtree(unfinished, ignore_errors=True)
        write_model(unfinished, given["model"], self._words)
        shutil.rmtree(kept, ignore_errors=True)
        unfinished.rename(kept)


def points(history: Iterable[Mapping[str, Any]], step_tokens: int) -> Iterator[LossPoint]:
    """The points of a loss curve in what the Trainer logged."""
    for entry in history:
        if "loss" in entry:
            step = int(entry["step"])
            yield LossPoint(
                step=step, loss=entry["loss"], learning_rate=entry["learning_rate"], tokens=step * step_tokens
            )


def write_model(folder: Path, model: Any, words: Any) -> None:
    """Writes a model and its tokenizer in Hugging Face format."""
    used_cache, model.config.use_cache = model.config.use_cache, True  # the Trainer turns it off for training
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    transformers.utils.logging.enable_progress_bar()
    words.save_pretrained(folder)
    model.config.use_cache = used_cache
