"""The trainer for one machine: transformers' Trainer on a mixture's windows.

The Trainer brings the loop, gradient clipping, checkpoints and their resumption. This module adds the data's order, the
optimizer's parameter groups, the schedule, and the rule by which a checkpoint counts as complete.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import transformers
from transformers import LlamaForCausalLM, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.corpora.quiet import quiet_transformers
from finephrase_dagster.study.student import Student
from finephrase_dagster.train.callbacks import (
    IntermediateModels,
    LossCurve,
    TimedCheckpoints,
    TrainingProgress,
    write_model,
)
from finephrase_dagster.train.checkpoint import Checkpoint, is_complete, last_checkpoint
from finephrase_dagster.train.job import TrainingError, TrainingFacts, TrainingJob
from finephrase_dagster.train.mixture import read_windows
from finephrase_dagster.train.order import read_order
from finephrase_dagster.train.output import (
    MODEL,
    ORDER,
    STATE,
    STEPS,
    UNFINISHED,
    WORK,
    check_start,
    final_loss,
    identity_of,
    publish,
)
from finephrase_dagster.train.schedule import (
    CURVE_POINTS,
    data_order,
    last_step,
    learning_rate_factor,
    steps_of,
)
from finephrase_dagster.train.sequences import Sequences
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import load_tokenizer
from finephrase_dagster.train.tokens import TokenSet


def train(job: TrainingJob) -> TrainingFacts:
    """Train a student on this machine; see `job.Train` for the errors.

    On the CPU a job gives the same weights whether or not it was killed in between, and whether it ran in one go or
    continued from its own pre-decay checkpoint.
    """
    with quiet_transformers():
        run = _Run.of(job)
        resumed = last_checkpoint(run.work, log=job.log) or run.copy_start()
        trainer = run.trainer()
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
        seconds = time.perf_counter() - started
        model = job.output / WORK / MODEL
        shutil.rmtree(model, ignore_errors=True)
        write_model(model, trainer.model, run.words)
    assert isinstance(trainer.model, LlamaForCausalLM)
    curve = tuple(run.curve.points(trainer.state.log_history))
    stops_early = run.end < run.steps
    publish(
        job.output,
        model=model,
        steps=run.work / STEPS,
        state=run.work / f"checkpoint-{run.end}" if stops_early else None,
        curve=curve,
        order=run.order(),
    )
    done = resumed.step if resumed else 0
    return TrainingFacts(
        parameters=trainer.model.num_parameters(only_trainable=True),
        steps=run.end,
        tokens=run.end * job.step_tokens,
        resumed_from=done,
        seconds=seconds,
        tokens_per_second=(run.end - done) * job.step_tokens / seconds,
        gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        final_loss=final_loss(curve),
        curve=curve,
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A job with its inputs read.

    Attributes:
        words: the students' tokenizer.
        data: the windows in the student's order.
        steps: steps of the complete schedule.
        end: the job's last step.
        before: the output of the job on another mixture that this one continues from, if any.
        work: the folder of its checkpoints.
    """

    job: TrainingJob
    words: Any
    data: Sequences
    steps: int
    end: int
    before: Path | None
    work: Path

    @classmethod
    def of(cls, job: TrainingJob) -> _Run:
        words = load_tokenizer(job.tokenizer)
        windows = read_windows(job.mixture, sequence=job.sequence)
        steps = steps_of(len(windows), student=job.student)
        end = last_step(job, steps)
        if job.start:
            state = job.start.folder / STATE
            check_start(state, _step_of(state), job.start.step or job.student.stable_steps(steps))
        before = job.start.folder if job.start and job.start.other_data else None
        origin = [sha256_file(before / STATE / SAFE_WEIGHTS_NAME)] if before else []
        work = job.output / WORK / fingerprint([*identity_of(job), *origin])[:SHORT]
        data = Sequences(
            windows,
            [TokenSet(folder) for folder in job.tokens(windows.names).values()],
            data_order(len(windows), seed=job.seeds.data)[: steps * job.student.batch_sequences],
            job.sequence,
            end_of_text=words.eos_token_id if job.student.document_masking else None,
        )
        work.mkdir(parents=True, exist_ok=True)
        return cls(job=job, words=words, data=data, steps=steps, end=end, before=before, work=work)

    def copy_start(self) -> Checkpoint | None:
        """Copy the state that the job continues from into `work`, as the checkpoint of a run that was killed there."""
        start = self.job.start
        if start is None:
            return None
        step = _step_of(start.folder / STATE)
        assert step is not None
        unfinished, checkpoint = self.work / UNFINISHED, self.work / f"checkpoint-{step}"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(start.folder / STATE, unfinished)
        unfinished.rename(checkpoint)
        if self.job.keep_steps and not self.before:
            shutil.copytree(start.folder / STEPS, self.work / STEPS, dirs_exist_ok=True)
        self.job.log(f"continues from the checkpoint of step {step}")
        return Checkpoint(checkpoint, step)

    def order(self) -> list[pa.Table]:
        """Return what the student saw, of the earlier mixture and of this one."""
        earlier = [read_order(self.before / ORDER)] if self.before else []
        end = self.end * self.job.student.batch_sequences
        return [*earlier, self.data.rows_of_order(sum(map(len, earlier)), end)]

    @property
    def curve(self) -> LossCurve:
        """What its loss curve has points at."""
        return LossCurve(
            cadence=max(1, round(self.steps / CURVE_POINTS)),
            ends=(self.job.student.stable_steps(self.steps), self.end),
            step_tokens=self.job.step_tokens,
        )

    def trainer(self) -> transformers.Trainer:
        """Return the Trainer with a fresh model, the optimizer, the schedule and the callbacks."""
        job, student = self.job, self.job.student
        model = self._fresh_model()
        optimizer = adamw(model, student)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps=self.steps, student=student)
        )
        progress = TrainingProgress(job.log, job.on_loss, self.curve)
        kept = [IntermediateModels(job.keep_steps, self.steps, self.words, self.work / STEPS)] if job.keep_steps else []
        trainer = transformers.Trainer(
            model=model,
            args=self._arguments(),
            train_dataset=self.data,
            data_collator=_batch_as_it_is,
            optimizers=(optimizer, schedule),
            callbacks=[progress, TimedCheckpoints(job.execution.checkpoint_minutes), *kept],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        return trainer

    def _fresh_model(self) -> LlamaForCausalLM:
        job, attention = self.job, self.job.student.attention
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seeds.model)
            model = build_student(
                job.student, vocabulary=len(self.words), sequence=job.sequence, eos=self.words.eos_token_id
            )
        if attention:
            try:
                model.set_attn_implementation(attention)
            except (ValueError, ImportError) as error:
                raise TrainingError(
                    f"attention {attention!r} cannot be used ({error}): name another kernel, or leave 'attention' out"
                ) from error
        return model

    def _arguments(self) -> TrainingArguments:
        execution, batch = self.job.execution, self.job.student.batch_sequences
        micro_batch = execution.micro_batch or batch
        if batch % micro_batch:
            raise TrainingError(
                f"a batch of {batch} sequences is not a multiple of micro_batch {micro_batch}: correct 'micro_batch'"
            )
        cadence = self.curve.cadence
        # With any checkpoints at all, the Trainer also writes one at the last step.
        saves = execution.checkpoint_steps or (self.steps if self.end < self.steps else None)
        return TrainingArguments(
            output_dir=str(self.work),
            max_steps=self.end,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=batch // micro_batch,
            bf16=self.job.student.precision == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            torch_compile=execution.compile,
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            seed=self.job.seeds.data,
            dataloader_num_workers=0,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
            logging_steps=cadence,
            logging_nan_inf_filter=False,
            save_strategy="steps" if saves else "no",
            # A checkpoint between two points of the curve would split the mean of the later one.
            save_steps=math.ceil((saves or 1) / cadence) * cadence,
            save_total_limit=2,
            report_to="none",
            disable_tqdm=True,
        )


def adamw(model: LlamaForCausalLM, student: Student) -> torch.optim.AdamW:
    """Return AdamW as published: betas 0.9 and 0.95, epsilon 1e-8, no weight decay on embeddings and norms."""
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


def _step_of(state: Path) -> int | None:
    """Return the step at which a checkpoint was written; None if it is missing or incomplete."""
    if not is_complete(state):
        return None
    step: int = json.loads((state / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    return step


def _batch_as_it_is(batch: Any) -> Any:
    return batch
