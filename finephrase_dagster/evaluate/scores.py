"""The scores of one checkpoint, with their intervals; and the table of all scores of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any

from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.bootstrap import Interval, interval, resampled_means
from finephrase_dagster.evaluate.categories import category_means, check_tasks, macro_mean, micro_mean

if TYPE_CHECKING:
    import pyarrow as pa


class NoItems(FinephraseError):
    """A task has no items, so it has no score."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """The mean of `prob_norm_token` over a task's items, or over its subsets' means.

    Attributes:
        mean: 0 to 1.
        stderr: the standard error of the mean over items; None where a subset has a single item.
        interval: the 95 % bootstrap interval of the mean.
        n: the number of items.
    """

    mean: float
    stderr: float | None
    interval: Interval
    n: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A checkpoint's scores.

    Attributes:
        tasks: by task name.
        categories: means of the categories all of whose tasks are evaluated.
        micro: the mean of the twelve tasks that count; None if one is missing.
        macro: the mean of the six categories; None if a task is missing.
        category_intervals, micro_interval, macro_interval: the 95 % bootstrap interval of each.
    """

    tasks: Mapping[str, TaskScore]
    categories: Mapping[str, float]
    micro: float | None
    macro: float | None
    category_intervals: Mapping[str, Interval]
    micro_interval: Interval | None
    macro_interval: Interval | None


def chance(vocabulary: int) -> float:
    """Return the score, equal on all tasks, of a student that finds all tokens equally probable."""
    return 1 / vocabulary


Values = Mapping[str, Mapping[str, Sequence[float]]]
"""The items' values by task and subset; a task without subsets has one, named ""."""


def scores(values: Values) -> Scores:
    """Compute all scores from the items' values.

    Raises:
        UnknownTask: there is no benchmark of this name.
        NoItems: a task or subset has no items.
    """
    check_tasks(values)
    groups = {task: list(subsets.values()) for task, subsets in values.items()}
    for task, of_task in groups.items():
        if not of_task or not all(of_task):
            raise NoItems(f"task {task} has no items to score. Check evaluation.items, or remove the task.")
    means = {task: fmean(fmean(group) for group in of_task) for task, of_task in groups.items()}
    resampled = {task: resampled_means(task, of_task) for task, of_task in groups.items()}
    categories, micro, macro = category_means(means), micro_mean(means), macro_mean(means)
    micro_resampled, macro_resampled = micro_mean(resampled), macro_mean(resampled)
    resampled_categories = category_means(resampled)
    return Scores(
        tasks={
            task: TaskScore(
                mean=means[task],
                stderr=_standard_error(of_task),
                interval=interval(resampled[task], means[task]),
                n=sum(map(len, of_task)),
            )
            for task, of_task in groups.items()
        },
        categories=categories,
        micro=micro,
        macro=macro,
        category_intervals={name: interval(resampled_categories[name], mean) for name, mean in categories.items()},
        micro_interval=None if micro is None or micro_resampled is None else interval(micro_resampled, micro),
        macro_interval=None if macro is None or macro_resampled is None else interval(macro_resampled, macro),
    )


def _standard_error(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard error of the mean of the groups' means; None if a group has a single value."""
    if any(len(group) < 2 for group in groups):
        return None
    return math.sqrt(sum(variance(group) / len(group) for group in groups)) / len(groups)


def read_scores(lineage: Lineage) -> pa.Table:
    """Return the scores of a study's student runs from the artifacts on disk; runs without scores are left out.

    Args:
        lineage: the study with its data folder, as `catalogue.read_lineage` returns it.

    Returns:
        One row per student run and score, with the columns
        - run with its mixture, student, data_seed, model_seed and decay_from (null: trained from scratch);
        - kind (`task`, `category` or `mean`) and name (such as `gsm8k`, `GK`, `macro`);
        - score, the ends `low` and `high` of its 95 % bootstrap interval, and of a task the items `n`.
    """
    import pyarrow as pa

    names = ("run", "mixture", "student", "data_seed", "model_seed", "decay_from", "kind", "name", "score", "low")
    types = (*(pa.string(),) * 3, pa.int64(), pa.int64(), *(pa.string(),) * 3, *(pa.float64(),) * 3, pa.int64())
    schema = pa.schema(list(zip((*names, "high", "n"), types, strict=True)))
    rows: list[dict[str, Any]] = []
    for name, run in lineage.study.student_runs.items():
        try:
            manifest = lineage.scores(name).manifest()
        except (ArtifactMissing, StoppedEarly):
            continue
        fields = {
            "run": name,
            "mixture": run.mixture,
            "student": run.student,
            "data_seed": run.seeds.data,
            "model_seed": run.seeds.model,
            "decay_from": run.decay_from,
        }
        rows += [{**fields, **score} for score in _named_scores(manifest)]
    return pa.Table.from_pylist(rows, schema=schema)


def _named_scores(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each score of a manifest with its kind, name and interval."""
    entries = [
        ("task", task, score["mean"], score["interval"], score["n"]) for task, score in manifest["tasks"].items()
    ]
    intervals = manifest["category_intervals"]
    entries += [("category", name, score, intervals[name], None) for name, score in manifest["categories"].items()]
    entries += [
        ("mean", mean, manifest[mean], manifest[f"{mean}_interval"], None)
        for mean in ("micro", "macro")
        if manifest[mean] is not None
    ]
    return [
        {"kind": kind, "name": name, "score": score, "low": low, "high": high, "n": n}
        for kind, name, score, (low, high), n in entries
    ]
