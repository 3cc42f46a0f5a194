"""The six categories of the benchmarks that count, and the two means over them.

The categories reproduce the study's published columns (its prose puts PIQA elsewhere, which does not). A missing task
is never a zero: a mean over an incomplete set of tasks does not exist. ARC-Challenge counts for no mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.benchmark import CATEGORIES
from finephrase_dagster.evaluate.tasks import benchmarks

Value = TypeVar("Value")


class UnknownTask(FinephraseError, ValueError, exit_status=2):
    """There is no benchmark of this name."""


def categories() -> dict[str, tuple[str, ...]]:
    """Return the tasks of each category."""
    return {
        category: tuple(task for task, benchmark in benchmarks().items() if benchmark.category == category)
        for category in CATEGORIES
    }


def counted_tasks() -> tuple[str, ...]:
    """Return the tasks that belong to a category, which the macro and the micro mean are made of."""
    return tuple(task for tasks in categories().values() for task in tasks)


def check_tasks(tasks: Iterable[str]) -> None:
    """Check that there is a benchmark of each name.

    Raises:
        UnknownTask: there is none; the message lists the benchmarks.
    """
    unknown = [task for task in tasks if task not in benchmarks()]
    if unknown:
        raise UnknownTask(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(benchmarks())}")


def category_means(means: Mapping[str, Value]) -> dict[str, Value]:
    """Return the mean of each category all of whose tasks are given.

    Args:
        means: the value of each task: numbers, or arrays of one length.

    Raises:
        UnknownTask: there is no benchmark of this name.
    """
    check_tasks(means)
    return {
        category: _mean([means[task] for task in tasks])
        for category, tasks in categories().items()
        if all(task in means for task in tasks)
    }


def micro_mean(means: Mapping[str, Value]) -> Value | None:
    """Return the mean of all tasks that count; None unless all are given."""
    check_tasks(means)
    counted = counted_tasks()
    return _mean([means[task] for task in counted]) if all(task in means for task in counted) else None


def macro_mean(means: Mapping[str, Value]) -> Value | None:
    """Return the mean of the six categories, the study's headline figure; None unless all tasks are given."""
    by_category = category_means(means)
    return _mean(list(by_category.values())) if len(by_category) == len(CATEGORIES) else None


def _mean(values: list[Value]) -> Value:
    return sum(values[1:], values[0]) / len(values)  # type: ignore[call-overload]
