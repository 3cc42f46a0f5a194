"""The scores of one checkpoint. How they are measured stands in `checkpoint`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from finephrase_dagster.evaluate.categories import category_means, macro_mean, micro_mean


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """The mean of `prob_norm_token` over a task's items.

    Attributes:
        mean: 0 to 1.
        stderr: the standard error of the mean over items; None for a single item.
        n: items.
    """

    mean: float
    stderr: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A checkpoint's scores.

    Attributes:
        tasks: by task name.
        categories: means of the categories whose tasks are all there.
        micro: the mean of the twelve tasks; None if one is missing.
        macro: the mean of the six categories; None if a task is missing.
    """

    tasks: Mapping[str, TaskScore]
    categories: Mapping[str, float]
    micro: float | None
    macro: float | None


def task_score(values: Sequence[float]) -> TaskScore:
    """The score of a task from its items' values, of which there is at least one."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return TaskScore(mean=fmean(values), stderr=error, n=len(values))


def scores(tasks: Mapping[str, TaskScore]) -> Scores:
    """All scores from those of the tasks.

    Raises:
        UnknownTask: a name that is not among the twelve.
    """
    means = {task: score.mean for task, score in tasks.items()}
    return Scores(tasks=tasks, categories=category_means(means), micro=micro_mean(means), macro=macro_mean(means))
