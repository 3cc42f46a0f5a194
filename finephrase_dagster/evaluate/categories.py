"""The six categories of the twelve tasks, and the two means over them.

Assigned so that they reproduce the study's published columns (its prose puts PIQA elsewhere, which
does not). A task that is missing is never a zero: a mean over something incomplete does not exist.
ARC-Challenge is run beside the twelve and stands in no mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.spec import TASKS

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "GK": ("arc_cf:easy", "mmlu_redux_cf"),
    "RC": ("squad_v2", "drop"),
    "RES": ("openbookqa_cf", "piqa_cf", "xcsqa_cf"),
    "NLU": ("hellaswag_cf", "winogrande_cf"),
    "MATH": ("gsm8k",),
    "TABLE": ("wikitablequestions", "treb_qa"),
}
"""General knowledge, reading comprehension, reasoning, language understanding, mathematics, tables."""

COUNTED = tuple(task for tasks in CATEGORIES.values() for task in tasks)
UNCOUNTED = ("arc_cf:challenge",)
SUITE = (*(task for task in TASKS if task not in UNCOUNTED), *UNCOUNTED)
"""All tasks there are, those that count first."""

Value = TypeVar("Value")


class UnknownTask(FinephraseError, ValueError, exit_status=2):
    """A task that the suite does not have."""


def check_tasks(tasks: Mapping[str, object] | tuple[str, ...]) -> None:
    """Refuses names that are not in the suite.

    Raises:
        UnknownTask: naming it and the tasks there are.
    """
    unknown = [task for task in tasks if task not in SUITE]
    if unknown:
        raise UnknownTask(f"there is no task {unknown[0]!r}; the suite has {', '.join(SUITE)}")


def category_means(means: Mapping[str, Value]) -> dict[str, Value]:
    """The mean of each category all of whose tasks are there; the others are left out.

    Args:
        means: by task; numbers, or arrays of one length.

    Raises:
        UnknownTask: a name that is not in the suite.
    """
    check_tasks(means)
    return {
        category: _mean([means[task] for task in tasks])
        for category, tasks in CATEGORIES.items()
        if all(task in means for task in tasks)
    }


def micro_mean(means: Mapping[str, Value]) -> Value | None:
    """The mean of the twelve tasks; None unless all are there."""
    check_tasks(means)
    return _mean([means[task] for task in COUNTED]) if all(task in means for task in COUNTED) else None


def macro_mean(means: Mapping[str, Value]) -> Value | None:
    """The mean of the six categories, the study's headline figure; None unless all tasks are there."""
    categories = category_means(means)
    return _mean(list(categories.values())) if len(categories) == len(CATEGORIES) else None


def _mean(values: list[Value]) -> Value:
    return sum(values[1:], values[0]) / len(values)  # type: ignore[call-overload]
