"""The trainer for one machine: transformers' Trainer on a mixture's windows.

The Trainer brings the loop, clipping, checkpoints and their resumption. Ours are the data's order, the
optimizer's groups, the schedule, and the rule by which a checkpoint counts as whole.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from transformers import LlamaForCausalLM, TrainerCallback, TrainingArguments

from finephrase_dagster.study.artifact import whole_file
from finephrase_dagster.study.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.study.spec import Seeds, Student
from finephrase_dagster.train.checkpoint import last_checkpoint, mark_whole
from finephrase_dagster.train.mixture import WINDOWS, Windows, read_windows
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import load_tokenizer
from finephrase_dagster.train.tokens import TokenSet
from finephrase_dagster.train.training import (
    LossPoint,
    TrainingDiverged,
    TrainingFacts,
    data_order,
    learning_rate_factor,
    steps_of,
)

POINTS = 100
"""Points of a loss curve, about."""


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
    checkpoint_steps: int | None = None,
) -> TrainingFacts:
    """Trains a student on this machine; see `training.Trainer` for the arguments.

    On the CPU the same arguments give the same weights, whether the run was killed in between or not.

    Raises:
        TrainingError: the mixture does not fill one batch.
        TrainingDiverged: the loss became infinite or no number.
        MixtureError, TokensError, TokenizerError: what is trained on is missing or unreadable.
    """
    words = load_tokenizer(tokenizer)
    windows = read_windows(mixture, sequence=sequence)
    steps = steps_of(len(windows), student=student)
    data = Sequences(
        windows,
        [TokenSet(components[name]) for name in windows.names],
        data_order(len(windows), seed=seeds.data)[: steps * student.batch_sequences],
        sequence,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.model)
        model = build_student(student, vocabulary=len(words), sequence=sequence, eos=words.eos_token_id)

    identity = [student, sequence, seeds, sha256_file(mixture / WINDOWS), sha256_file(tokenizer / "tokenizer.json")]
    work = output / "work" / fingerprint(identity)[:SHORT]
    work.mkdir(parents=True, exist_ok=True)
    resumed = last_checkpoint(work, log=log)
    trainer = _trainer(model, data, student, seeds, steps, work, log, checkpoint_steps)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
    seconds = time.perf_counter() - started

    curve = _curve(trainer.state.log_history, student.batch_sequences * sequence)
    _save(output, model, words, curve)
    done = steps - (resumed.step if resumed else 0)
    tail = curve[-math.ceil(len(curve) / 10) :]
    return TrainingFacts(
        parameters=model.num_parameters(only_trainable=True),
        steps=steps,
        tokens=steps * student.batch_sequences * sequence,
        resumed_from=resumed.step if resumed else 0,
        seconds=seconds,
        tokens_per_second=done * student.batch_sequences * sequence / seconds,
        final_loss=sum(point.loss for point in tail) / len(tail),
        curve=curve,
    )


class Sequences(torch.utils.data.Dataset):
    """A mixture's windows in a student's order, handed out as whole batches."""

    def __init__(self, windows: Windows, sets: list[TokenSet], order: np.ndarray, sequence: int) -> None:
        self._windows = windows
        self._sets = sets
        self._order = order
        self._sequence = sequence

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Input ids and labels, which the model shifts itself; shape (len(indices), sequence), int64."""
        rows = np.empty((len(indices), self._sequence), np.int64)
        for row, index in enumerate(self._order[indices]):
            tokens = self._sets[self._windows.component[index]]
            rows[row] = tokens.window(int(self._windows.start[index]), self._sequence)
        batch = torch.from_numpy(rows)
        return {"input_ids": batch, "labels": batch}


def adamw(model: LlamaForCausalLM, student: Student) -> torch.optim.AdamW:
    """AdamW as published: 0.9/0.95, 1e-8, no weight decay on embeddings and norms."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        decays = parameter.ndim == 2 and "embed_tokens" not in name
        (matrices if decays else others).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": student.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=student.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


def _trainer(
    model: LlamaForCausalLM,
    data: Sequences,
    student: Student,
    seeds: Seeds,
    steps: int,
    work: Path,
    log: Callable[[str], None],
    checkpoint_steps: int | None,
) -> transformers.Trainer:
    cadence = max(1, round(steps / POINTS))
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=1,
        per_device_train_batch_size=student.batch_sequences,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        seed=seeds.data,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        logging_steps=cadence,
        logging_nan_inf_filter=False,
        save_strategy="steps" if checkpoint_steps else "no",
        # A checkpoint between two points of the curve would split the mean of the later one.
        save_steps=math.ceil((checkpoint_steps or 1) / cadence) * cadence,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    optimizer = adamw(model, student)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps=steps, student=student)
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=_as_it_is,
        optimizers=(optimizer, schedule),
        callbacks=[_Progress(log)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _as_it_is(batch: Any) -> Any:
    return batch


class _Progress(TrainerCallback):
    """Logs the last step, tells how training goes, stops a diverged run, and marks whole checkpoints."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
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
        if step % every < state.logging_steps or step == state.max_steps:
            self._log(f"step {step} of {state.max_steps}: loss {logs['loss']:.3f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _curve(history: list[dict[str, float]], step_tokens: int) -> tuple[LossPoint, ...]:
    return tuple(
        LossPoint(
            step=int(entry["step"]),
            loss=entry["loss"],
            learning_rate=entry["learning_rate"],
            tokens=int(entry["step"]) * step_tokens,
        )
        for entry in history
        if "loss" in entry
    )


def _save(output: Path, model: LlamaForCausalLM, words: Any, curve: tuple[LossPoint, ...]) -> None:
    """Puts curve and model under their names, the model last, and removes `work`."""
    with whole_file(output / "losses.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(point) for point in curve]), temporary)
    unfinished = output / "work" / "model"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.config.use_cache = True  # the Trainer turns it off for training
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(unfinished)
    transformers.utils.logging.enable_progress_bar()
    words.save_pretrained(unfinished)
    shutil.rmtree(output / "model", ignore_errors=True)
    unfinished.rename(output / "model")
    shutil.rmtree(output / "work")
