"""The trainer for one machine: transformers' Trainer on a mixture's windows.

The Trainer brings the loop, clipping, checkpoints and their resumption. Ours are the data's order, the
optimizer's groups, the schedule, and the rule by which a checkpoint counts as whole.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from transformers import LlamaForCausalLM, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.study.student import Student
from finephrase_dagster.train.callbacks import IntermediateModels, TrainingProgress, points, write_model
from finephrase_dagster.train.checkpoint import Checkpoint, last_checkpoint, whole
from finephrase_dagster.train.course import Course, StartingCheckpoint
from finephrase_dagster.train.mixture import WINDOWS, read_windows
from finephrase_dagster.train.order import ORDER, read_order, write_order
from finephrase_dagster.train.sequences import Sequences
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import load_tokenizer
from finephrase_dagster.train.tokens import TokenSet
from finephrase_dagster.train.training import (
    DEFAULT,
    Execution,
    Follow,
    LossPoint,
    TrainingError,
    TrainingFacts,
    data_order,
    last_stable_step,
    learning_rate_factor,
    stable_steps,
    steps_of,
    unfollowed,
)

STATE = "state"
"""The folder of a plateau's state, below its output."""
STEPS = "steps"
"""The folder of the models that were kept on the way, by their steps."""
POINTS = 100
"""Points of a loss curve, about."""


def train_student(
    output: Path,
    course: Course,
    *,
    log: Callable[[str], None],
    follow: Follow = unfollowed,
    execution: Execution = DEFAULT,
    beginning: StartingCheckpoint | None = None,
) -> TrainingFacts:
    """Trains a student on this machine; a `training.Trainer`, which see for the arguments.

    On the CPU the same course gives the same weights, whether the run was killed in between or not, and
    whether its plateau was trained before or not.

    Raises:
        TrainingError: the mixture does not fill one batch, or the beginning is another schedule's.
        TrainingDiverged: the loss became infinite or no number.
        MixtureError, TokensError, TokenizerError: what is trained on is missing or unreadable.
    """
    prepared = _Prepared.of(course, execution)
    other = beginning if beginning and beginning.other_data else None
    seen = [read_order(other.folder / ORDER)] if other else []
    origin = [sha256_file(other.folder / STATE / SAFE_WEIGHTS_NAME)] if other else []
    work = output / "work" / fingerprint([*prepared.identity, *origin])[:SHORT]
    resumed = last_checkpoint(work, log=log)
    if beginning and resumed is None:
        resumed = _take_up(beginning.folder / STATE, work, beginning.step or prepared.plateau, log=log)
        if course.keep_steps and not other:
            shutil.copytree(beginning.folder / STEPS, work / STEPS, dirs_exist_ok=True)
    trainer, facts = prepared.train(work, resumed, until=prepared.steps, log=log, follow=follow)
    write_order(output / ORDER, [*seen, prepared.data.listed(sum(map(len, seen)))])
    _save(output, trainer.model, prepared.words, facts.curve, work / STEPS)
    return facts


def train_to_decay(
    output: Path,
    course: Course,
    *,
    log: Callable[[str], None],
    follow: Follow = unfollowed,
    execution: Execution = DEFAULT,
    until: int | None = None,
) -> TrainingFacts:
    """Trains a student's first steps; a `training.PreDecayTrainer`, which see. Errors as for `train_student`."""
    prepared = _Prepared.of(course, execution)
    end = until or last_stable_step(prepared.steps, student=course.student)
    work = output / "work" / fingerprint(prepared.identity)[:SHORT]
    trainer, facts = prepared.train(work, last_checkpoint(work, log=log), until=end, log=log, follow=follow)
    write_order(output / ORDER, [prepared.data.listed(0, end * course.student.batch_sequences)])
    shutil.rmtree(output / "model", ignore_errors=True)
    write_model(output / "model", trainer.model, prepared.words)
    shutil.rmtree(output / STATE, ignore_errors=True)
    (work / f"checkpoint-{end}").rename(output / STATE)
    _move_steps(work / STEPS, output)
    shutil.rmtree(output / "work")
    return facts


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A course, made ready for this machine.

    Attributes:
        words: the tokenizer.
        steps: all of them.
        plateau: those before the learning rate decays.
        identity: what determines the weights.
    """

    course: Course
    execution: Execution
    words: Any
    data: Sequences
    steps: int
    plateau: int
    identity: list[Any]

    @classmethod
    def of(cls, course: Course, execution: Execution) -> _Prepared:
        student, sequence = course.student, course.sequence
        words = load_tokenizer(course.tokenizer)
        windows = read_windows(course.mixture, sequence=sequence)
        steps = steps_of(len(windows), student=student)
        order = data_order(len(windows), seed=course.seeds.data)[: steps * student.batch_sequences]
        hashes = [sha256_file(course.mixture / WINDOWS), sha256_file(course.tokenizer / "tokenizer.json")]
        return cls(
            course=course,
            execution=execution,
            words=words,
            data=Sequences(
                windows,
                [TokenSet(folder) for folder in course.tokens(windows.names).values()],
                order,
                sequence,
                end_of_text=words.eos_token_id if student.document_masking else None,
            ),
            steps=steps,
            plateau=stable_steps(steps, student=student),
            identity=[student, sequence, course.seeds, *hashes],
        )

    def train(
        self, work: Path, resumed: Checkpoint | None, *, until: int, log: Callable[[str], None], follow: Follow
    ) -> tuple[transformers.Trainer, TrainingFacts]:
        """Trains up to a step, from a checkpoint if one is given; others are written into `work`."""
        work.mkdir(parents=True, exist_ok=True)
        student, sequence = self.course.student, self.course.sequence
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.course.seeds.model)
            model = build_student(student, vocabulary=len(self.words), sequence=sequence, eos=self.words.eos_token_id)
        if self.execution.attention:
            try:
                model.set_attn_implementation(self.execution.attention)
            except (ValueError, ImportError) as error:
                raise TrainingError(f"attention {self.execution.attention!r} cannot be used: {error}") from error
        trainer = _trainer(model, self, until, work, log, follow)
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
        seconds = time.perf_counter() - started
        step_tokens = student.batch_sequences * sequence
        curve = tuple(points(trainer.state.log_history, step_tokens))
        tail = curve[-math.ceil(len(curve) / 10) :]
        done = until - (resumed.step if resumed else 0)
        return trainer, TrainingFacts(
            parameters=model.num_parameters(only_trainable=True),
            steps=until,
            tokens=until * step_tokens,
            resumed_from=resumed.step if resumed else 0,
            seconds=seconds,
            tokens_per_second=done * step_tokens / seconds,
            gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            final_loss=sum(point.loss for point in tail) / len(tail),
            curve=curve,
        )


def _take_up(state: Path, work: Path, step: int, *, log: Callable[[str], None]) -> Checkpoint:
    """Puts a plateau's state into `work`, as the checkpoint of a run that was killed there.

    Raises:
        TrainingError: it is not whole, or another step's.
    """
    if not whole(state):
        raise TrainingError(f"{state} is no whole plateau: train the plateau again")
    found = json.loads((state / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    if found != step:
        raise TrainingError(
            f"the plateau {state} ends at step {found}, this run goes on from step {step}: give both mixtures the same "
            "'tokens'"
        )
    unfinished, checkpoint = work / "unfinished", work / f"checkpoint-{step}"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(state, unfinished)
    unfinished.rename(checkpoint)
    log(f"goes on from the plateau at step {step}")
    return Checkpoint(checkpoint, step)


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
    prepared: _Prepared,
    until: int,
    work: Path,
    log: Callable[[str], None],
    follow: Follow,
) -> transformers.Trainer:
    course, steps, execution = prepared.course, prepared.steps, prepared.execution
    student = course.student
    micro_batch = execution.micro_batch or student.batch_sequences
    if student.batch_sequences % micro_batch:
        raise TrainingError(
            f"a batch of {student.batch_sequences} sequences has no whole number of {micro_batch}: correct micro_batch"
        )
    cadence = max(1, round(steps / POINTS))
    saves = execution.checkpoint_steps or (steps if until < steps else None)  # a plateau is kept at its end
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=until,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=student.batch_sequences // micro_batch,
        bf16=torch.cuda.is_available() if execution.bf16 is None else execution.bf16,
        use_cpu=not torch.cuda.is_available(),
        torch_compile=execution.compile,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        seed=course.seeds.data,
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
    optimizer = adamw(model, student)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps=steps, student=student)
    )
    keepers = [IntermediateModels(course.keep_steps, steps, prepared.words, work / STEPS)] if course.keep_steps else []
    progress = TrainingProgress(
        log, follow, plateau=prepared.plateau, step_tokens=student.batch_sequences * course.sequence
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=prepared.data,
        data_collator=_as_it_is,
        optimizers=(optimizer, schedule),
        callbacks=[progress, *keepers],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _as_it_is(batch: Any) -> Any:
    return batch


def _save(output: Path, model: Any, words: Any, curve: tuple[LossPoint, ...], steps: Path) -> None:
    """Puts curve, kept steps and model under their names, the model last, and removes `work`."""
    _move_steps(steps, output)
    with atomic_write(output / "losses.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(point) for point in curve]), temporary)
    unfinished = output / "work" / "model"
    shutil.rmtree(unfinished, ignore_errors=True)
    write_model(unfinished, model, words)
    shutil.rmtree(output / "model", ignore_errors=True)
    unfinished.rename(output / "model")
    shutil.rmtree(output / "work")


def _move_steps(steps: Path, output: Path) -> None:
    shutil.rmtree(output / STEPS, ignore_errors=True)
    if steps.is_dir():
        shutil.rmtree(steps / "unfinished", ignore_errors=True)
        steps.rename(output / STEPS)
