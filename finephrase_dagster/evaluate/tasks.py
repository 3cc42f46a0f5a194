"""The benchmarks as lighteval tasks, and their items as lighteval documents with few-shot examples.

Tasks are built directly: lighteval's registry would import every bundled task, one of which downloads
a file. Few-shot examples are chosen by lighteval's own sampler with its fixed seed, as in the study.
What is not here: tokens, and how many examples fit a model's context.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lighteval.tasks.lighteval_task import LightevalTask, LightevalTaskConfig
from lighteval.tasks.requests import Doc

from finephrase_dagster.evaluate.benchmarks import (
    BENCHMARKS,
    EVALUATION_SPLIT,
    FEW_SHOT_SPLIT,
    Benchmark,
    ItemsError,
    items_folder,
    read_rows,
)
from finephrase_dagster.evaluate.categories import check_tasks
from finephrase_dagster.evaluate.metric import prob_norm_token
from finephrase_dagster.study.spec import Evaluation


def document(line: dict[str, Any], task: str, *, benchmark: Benchmark) -> Doc | None:
    """A dataset's row as lighteval's document; its choices are the golds alone. None: nothing to score."""
    row = benchmark.row.model_validate(line)
    golds = row.golds()
    if not golds:
        return None
    return Doc(
        task_name=task,
        query=row.prompt(),
        choices=[f" {gold}" for gold in golds],
        gold_index=list(range(len(golds))),
        specific={"item": row.key()},
    )


def task_config(task: str, *, items: Path | None, shots: int) -> LightevalTaskConfig:
    """The lighteval configuration of a task.

    Args:
        items: the folder of all tasks' items; None: the original dataset on the hub.
        shots: few-shot examples an item.

    Raises:
        UnknownTask: not one of the twelve.
    """
    check_tasks((task,))
    benchmark = BENCHMARKS[task]
    local = items is not None
    evaluated = EVALUATION_SPLIT if local else benchmark.evaluation_split
    examples = FEW_SHOT_SPLIT if local else benchmark.few_shot_split
    return LightevalTaskConfig(
        name=task,
        prompt_function=partial(document, benchmark=benchmark),  # type: ignore[arg-type] # may be None
        hf_repo=str(items / benchmark.folder) if items is not None else benchmark.hub,
        hf_subset="default" if local else benchmark.subset,  # type: ignore[arg-type] # may be None
        hf_avail_splits=[split for split in (examples, evaluated) if split],
        evaluation_splits=[evaluated],
        few_shots_split=examples or evaluated,
        few_shots_select="balanced",
        num_fewshots=shots,
        metrics=[prob_norm_token()],
        stop_sequence=["\n"],
    )


def build_docs(evaluation: Evaluation) -> dict[str, list[Doc]]:
    """The documents of a study's evaluation by task, each with its few-shot examples.

    The items are the first `samples` of a fixed shuffle, so a smaller number takes a subset.

    Raises:
        ItemsError: items that are missing or wrong, or fewer examples than shots.
    """
    folder = items_folder(evaluation.items)
    return {task: _docs(task, folder, evaluation) for task in evaluation.tasks}


def _docs(task: str, folder: Path, evaluation: Evaluation) -> list[Doc]:
    lighteval_task = LightevalTask(task_config(task, items=folder, shots=evaluation.shots))
    examples = read_rows(task, FEW_SHOT_SPLIT, items=folder) if evaluation.shots else []
    if len(examples) < evaluation.shots:
        raise ItemsError(
            f"task {task}: {len(examples)} few-shot items in {folder / BENCHMARKS[task].folder}, "
            f"but evaluation.shots is {evaluation.shots}: write more, or ask for fewer"
        )
    # Plain rows, already checked: lighteval only iterates, and a column of TReB mixes two types.
    lighteval_task.dataset = {
        FEW_SHOT_SPLIT: examples,
        EVALUATION_SPLIT: read_rows(task, EVALUATION_SPLIT, items=folder),
    }
    docs = lighteval_task.get_docs(max_samples=evaluation.samples)
    for doc in docs:
        doc.id = str((doc.specific or {})["item"])  # lighteval has put the position there
    return docs
