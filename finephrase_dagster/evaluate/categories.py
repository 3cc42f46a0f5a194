"""The six categories of the twelve tasks, and the two means over them.

Assigned so that they reproduce the study's published columns (its prose puts PIQA elsewhere, which
does not). A task that is missing is never a zero: a mean over something incomplete does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

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


class UnknownTask(ValueError):
    """A task that the suite does not have."""


def check_tasks(tasks: Mapping[str, object] | tuple[str, ...]) -> None:
    """Refuses names that are not among the twelve.

    Raises:
        UnknownTask: naming it and the tasks there are.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise UnknownTask(f"there is no task {unknown[0]!r}; the suite has {', '.join(TASKS)}")


def category_means(means: Mapping[str, float]) -> dict[str, float]:
    """The mean of each category all of whose tasks are there; the others are left out.

    Raises:
        UnknownTask: a name that is not among the twelve.
    """
    check_tasks(means)
    return {
        category: fmean(means[task] for task in tasks)
        for category, tasks in CATEGORIES.items()
        if all(task in means for task in tasks)
    }


def micro_mean(means: Mapping[str, float]) -> float | None:
    """The mean of the twelve tasks; None unless all are there."""
    check_tasks(means)
    return fmean(means[task] for task in TASKS) if len(means) == len(TASKS) else None


def macro_mean(means: Mapping[str, float]) -> float | None:
    """The mean of the six categories, the study's headline figure; None unless all tasks are there."""
    categories = category_means(means)
    return fmean(categories.values()) if len(categories) == len(CATEGORIES) else None
