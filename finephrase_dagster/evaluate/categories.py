"""The six categories of the benchmarks that count, and the two means over them.

The categories reproduce the study's published columns (its prose puts PIQA elsewhere, which does not). A missing task
is never a zero: a mean over an incomplete set of tasks does not exist, unless the missing ones are named as tasks that
do not count. The means of a study that evaluates a subset of the tasks are such *partial* means, and are marked
wherever they are shown. ARC-Challenge counts for no mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.benchmark import CATEGORIES
from finephrase_dagster.evaluate.metric import BITS
from finephrase_dagster.evaluate.tasks import benchmarks

Value = TypeVar("Value")


class UnknownTask(FinephraseError, ValueError, exit_status=2):
    """There is no benchmark of this name."""


def categories(held_out: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Return the tasks of each category, without the held-out ones and without categories of such tasks alone."""
    of_category: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    for task, benchmark in benchmarks().items():
        if benchmark.category is not None and task not in held_out:
            of_category[benchmark.category].append(task)
    return {category: tuple(tasks) for category, tasks in of_category.items() if tasks}


def counted_tasks(held_out: Collection[str] = ()) -> tuple[str, ...]:
    """Return the tasks that belong to a category, which the macro and the micro mean are made of."""
    return tuple(task for tasks in categories(held_out).values() for task in tasks)


def unscored_tasks(tasks: Collection[str]) -> tuple[str, ...]:
    """Return the tasks that would count for the means of a study and that it does not evaluate."""
    return tuple(task for task in counted_tasks() if task not in tasks)


def partial_words(unscored: Collection[str]) -> str:
    """Return what partial means lack, for a reader; empty if no task is unscored."""
    every = len(counted_tasks())
    if not unscored:
        return ""
    return (
        f"partial: macro and micro are means over {every - len(unscored)} of the {every} tasks that count. Not "
        f"evaluated: {', '.join(unscored)}."
    )


def check_tasks(tasks: Iterable[str]) -> None:
    """Check that there is a benchmark of each name.

    Raises:
        UnknownTask: there is none; the message lists the benchmarks.
    """
    unknown = [task for task in tasks if task not in benchmarks()]
    if unknown:
        raise UnknownTask(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(benchmarks())}")


def category_means(means: Mapping[str, Value], held_out: Collection[str] = ()) -> dict[str, Value]:
    """Return the mean of each category all of whose tasks are given.

    Args:
        means: the value of each task: numbers, or arrays of one length.
        held_out: tasks that count for no mean; a category of such tasks alone has none.

    Raises:
        UnknownTask: there is no benchmark of this name.
    """
    check_tasks(means)
    return {
        category: _mean([means[task] for task in tasks])
        for category, tasks in categories(held_out).items()
        if all(task in means for task in tasks)
    }


def micro_mean(means: Mapping[str, Value], held_out: Collection[str] = ()) -> Value | None:
    """Return the mean of all tasks that count; None unless all are given."""
    check_tasks(means)
    counted = counted_tasks(held_out)
    return _mean([means[task] for task in counted]) if counted and all(task in means for task in counted) else None


def macro_mean(means: Mapping[str, Value], held_out: Collection[str] = ()) -> Value | None:
    """Return the mean of the six categories, the study's headline figure; None unless all tasks are given."""
    by_category = category_means(means, held_out)
    return _mean([*by_category.values()]) if by_category and len(by_category) == len(categories(held_out)) else None


def task_weights(name: str, held_out: Collection[str] = ()) -> dict[str, float]:
    """Return the weight of each task in a score: a mean, a category, or a task itself."""
    by_category = categories(held_out)
    if name == "macro":
        shares = {task: 1 / len(tasks) for tasks in by_category.values() for task in tasks}
        return {task: share / len(by_category) for task, share in shares.items()}
    means = {"micro": counted_tasks(held_out), "held_out": tuple(held_out), **by_category}
    tasks = means.get(name, (name,))
    return {task: 1 / len(tasks) for task in tasks}


def means_without(point: Mapping[str, Any], held_out: Collection[str]) -> dict[str, Any]:
    """Return a point of a curve whose means leave out held-out tasks; `held_out` is the mean of these tasks.

    Args:
        point: with the score of each task in `tasks`, and the same of bits per byte if they are known. Tasks that are
            not among them do not count either.
    """
    tasks = point["tasks"]
    held = [tasks[task] for task in held_out if task in tasks]
    uncounted = (*held_out, *unscored_tasks(tasks))
    return {
        **point,
        "categories": category_means(tasks, uncounted),
        "micro": micro_mean(tasks, uncounted),
        "macro": macro_mean(tasks, uncounted),
        "held_out": _mean(held) if held and len(held) == len(held_out) else None,
        **({BITS: means_without(point[BITS], held_out)} if BITS in point else {}),
    }


def _mean(values: list[Value]) -> Value:
    return sum(values[1:], values[0]) / len(values)  # type: ignore[call-overload]
