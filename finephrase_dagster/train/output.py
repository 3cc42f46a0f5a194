"""The files that a trainer leaves behind, and the inputs that it reads; the same for every trainer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.train.job import LossPoint, TrainingError, TrainingJob
from finephrase_dagster.train.mixture import WINDOWS
from finephrase_dagster.train.order import write_order
from finephrase_dagster.train.tokenizer import TOKENIZER_FILE

MODEL = "model"
ORDER = "order.parquet"
STATE = "state"
STEPS = "steps"
UNFINISHED = "unfinished"
WORK = "work"


def identity_of(job: TrainingJob) -> list[Any]:
    """Return what determines a job's weights, apart from its trainer and its starting checkpoint."""
    hashes = [sha256_file(job.mixture / WINDOWS), sha256_file(job.tokenizer / TOKENIZER_FILE)]
    return [job.student, job.sequence, job.seeds, *hashes]


def publish(
    output: Path, *, model: Path, steps: Path, state: Path | None, curve: Sequence[LossPoint], order: list[pa.Table]
) -> None:
    """Write a finished job's files under their final names, the model last, and delete `work`.

    Args:
        model: the finished model, below `work`.
        steps: the models that were kept on the way, below `work`; it need not exist.
        state: what a later job continues from, below `work`; None after a complete schedule.
        order: what the student saw, one table per mixture.
    """
    write_order(output / ORDER, order)
    with atomic_write(output / "losses.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(point) for point in curve]), temporary)
    shutil.rmtree(steps / UNFINISHED, ignore_errors=True)
    for folder, name in ((steps, STEPS), (state, STATE), (model, MODEL)):
        if folder is not None and folder.is_dir():
            shutil.rmtree(output / name, ignore_errors=True)
            folder.rename(output / name)
    shutil.rmtree(output / WORK)


def final_loss(curve: Sequence[LossPoint]) -> float:
    """Return the mean loss of the last tenth of a curve."""
    tail = curve[-math.ceil(len(curve) / 10) :]
    return sum(point.loss for point in tail) / len(tail)


def check_start(state: Path, step: int | None, start_step: int) -> None:
    """Check that a starting checkpoint is complete and was written at the step that the job continues from.

    Args:
        state: the checkpoint's folder `state`.
        step: the step at which it was written; None if it is missing or incomplete.
        start_step: the step that the job continues from.

    Raises:
        TrainingError: it is missing, incomplete, or of another step.
    """
    if step is None:
        raise TrainingError(f"{state} is not a complete checkpoint to continue from: train its run again")
    if step != start_step:
        raise TrainingError(
            f"the checkpoint {state} is of step {step}, but this run continues from step {start_step}: give both "
            "mixtures the same 'tokens'"
        )
