"""The benchmarks as lighteval tasks, and their items as lighteval documents with few-shot examples.

Tasks are built directly: lighteval's registry would import every bundled task, one of which downloads
a file. Which items and examples there are stands in `selection`: lighteval's own few-shot sampler
depends on the files' order, and where examples come from the evaluated split it can hand an item its
own answer. What is not here: tokens, and how many examples fit a model's context.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from lighteval.tasks.lighteval_task import LightevalTask, LightevalTaskConfig
from lighteval.tasks.requests import Doc

from finephrase_dagster.evaluate.benchmarks import BENCHMARKS
from finephrase_dagster.evaluate.categories import check_tasks
from finephrase_dagster.evaluate.metric import prob_norm_token
from finephrase_dagster.evaluate.reading import Place, place
from finephrase_dagster.evaluate.row import Row
from finephrase_dagster.evaluate.selection import Item, Selection, select
from finephrase_dagster.study.spec import Evaluation


def document(line: dict[str, Any], task: str, *, schema: type[Row]) -> Doc | None:
    """A dataset's row as lighteval's document; its choices are the golds alone. None: nothing to score."""
    row = schema.model_validate(line)
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


def task_config(place: Place, subset: str, *, shots: int) -> LightevalTaskConfig:
    """The lighteval configuration of a task, or of one of its subsets.

    Raises:
        UnknownTask: not one of the suite.
    """
    check_tasks((place.task,))
    return LightevalTaskConfig(
        name=place.task if len(place.subsets) == 1 else f"{place.task}:{subset}",
        prompt_function=partial(document, schema=BENCHMARKS[place.task].row),  # type: ignore[arg-type] # may be None
        hf_repo=place.repository,
        hf_subset=subset or "default",
        hf_revision=place.revision,
        hf_avail_splits=list(dict.fromkeys([place.few_shot_split, place.evaluation_split])),
        evaluation_splits=[place.evaluation_split],
        few_shots_split=place.few_shot_split,
        few_shots_select="sequential",
        num_fewshots=shots,
        metrics=[prob_norm_token()],
        stop_sequence=["\n"],
    )


def build_docs(evaluation: Evaluation) -> dict[str, list[Doc]]:
    """The documents of a study's evaluation by task, each with its few-shot examples.

    Of a document, `id` is the item's, and `specific` holds `subset`, `digest` (the hash of its row) and
    `examples` (the ids of its examples).

    Raises:
        ItemsError: items that are missing or wrong, or fewer examples than shots.
        UnknownTask: not one of the suite.
    """
    check_tasks(evaluation.tasks)
    docs = {}
    for task in evaluation.tasks:
        where = place(task, evaluation.items)
        selection = select(where, samples=evaluation.samples, shots=evaluation.shots)
        docs[task] = [doc for subset in where.subsets for doc in _docs(where, subset, selection)]
    return docs


def _docs(where: Place, subset: str, selection: Selection) -> list[Doc]:
    items = [item for item in selection.items if item.subset == subset]
    if not items:
        return []
    lighteval_task = LightevalTask(task_config(where, subset, shots=0))
    # Copies, for lighteval writes into what it iterates over.
    lighteval_task.dataset = {where.evaluation_split: [dict(item.line) for item in items]}
    docs = lighteval_task.get_docs()
    by_line = {doc.id: doc for doc in docs}  # lighteval's id is the position
    return [_with_examples(by_line[str(index)], item, selection) for index, item in enumerate(items)]


def _with_examples(doc: Doc, item: Item, selection: Selection) -> Doc:
    examples = selection.examples_of(item)
    schema = type(item.row)
    found = [document(example.line, doc.task_name, schema=schema) for example in examples]
    doc.fewshot_samples = [example for example in found if example is not None]
    doc.id = item.row.key()
    doc.specific = {
        "subset": item.subset,
        "digest": item.digest,
        "examples": [example.row.key() for example in examples],
    }
    return doc
