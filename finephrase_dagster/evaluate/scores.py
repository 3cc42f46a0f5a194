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
from finephrase_dagster.evaluate.categories import (
    category_means,
    check_tasks,
    macro_mean,
    means_without,
    micro_mean,
    unscored_tasks,
)
from finephrase_dagster.evaluate.metric import BITS, LAST_NAME, MEANS, final_scores, point_scores
from finephrase_dagster.evaluate.tasks import benchmarks

if TYPE_CHECKING:
    import pyarrow as pa


class NoItems(FinephraseError):
    """A task has no items, so it has no score."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """The mean of a measure over a task's items, or over its subsets' means.

    Attributes:
        mean: of `prob_norm_token`, 0 to 1; or of bits per byte.
        stderr: the standard error of the mean over items; None where a subset has a single item.
        interval: the 95 % bootstrap interval of the mean.
        n: the number of items.
        category: the one that it counts for; None if it counts for no mean.
    """

    mean: float
    stderr: float | None
    interval: Interval
    n: int
    category: str | None


@dataclass(frozen=True, kw_only=True)
class Means:
    """A checkpoint's scores by one measure.

    Attributes:
        micro: the mean of the twelve tasks that count; None if none is evaluated.
        macro: the mean of the six categories; None if none is evaluated. Of a subset of the tasks, all means are
            partial.
        category_intervals, micro_interval, macro_interval: the 95 % bootstrap interval of each.
    """

    tasks: Mapping[str, TaskScore]
    categories: Mapping[str, float]
    micro: float | None
    macro: float | None
    category_intervals: Mapping[str, Interval]
    micro_interval: Interval | None
    macro_interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Scores(Means):
    """A checkpoint's scores by `prob_norm_token`, and those by bits per byte of the correct answers.

    Attributes:
        bits_per_byte: means over items of how many bits each byte of an answer takes; less is better.
    """

    bits_per_byte: Means


def chance(vocabulary: int) -> float:
    """Return the score, equal on all tasks, of a student that finds all tokens equally probable."""
    return 1 / vocabulary


Values = Mapping[str, Mapping[str, Sequence[float]]]
"""The items' values by task and subset; a task without subsets has one, named ""."""


def scores(values: Values, bits: Values) -> Scores:
    """Compute all scores from the items' `prob_norm_token` and from their bits per byte; see `means`."""
    return Scores(**vars(means(values)), bits_per_byte=means(bits))


def means(values: Values) -> Means:
    """Compute the scores by one measure from the items' values.

    Raises:
        UnknownTask: there is no benchmark of this name.
        NoItems: a task or subset has no items.
    """
    check_tasks(values)
    groups = {task: list(subsets.values()) for task, subsets in values.items()}
    for task, of_task in groups.items():
        if not of_task or not all(of_task):
            raise NoItems(f"task {task} has no items to score. Check evaluation.items, or remove the task.")
    of_tasks = {task: fmean(fmean(group) for group in of_task) for task, of_task in groups.items()}
    resampled = {task: resampled_means(task, of_task) for task, of_task in groups.items()}
    unscored = unscored_tasks(values)
    categories, resampled_categories = category_means(of_tasks, unscored), category_means(resampled, unscored)
    micro, micro_resampled = micro_mean(of_tasks, unscored), micro_mean(resampled, unscored)
    macro, macro_resampled = macro_mean(of_tasks, unscored), macro_mean(resampled, unscored)
    return Means(
        tasks={
            task: TaskScore(
                mean=of_tasks[task],
                stderr=_standard_error(of_task),
                interval=interval(resampled[task], of_tasks[task]),
                n=sum(map(len, of_task)),
                category=benchmarks()[task].category,
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
        - score, the ends `low` and `high` of its 95 % bootstrap interval, and of a task the items `n`;
        - bits_per_byte, and `last5` and `bits_per_byte_last5`, the means over the last five checkpoints (null: fewer).

        Means leave out the study's held-out tasks, and then have no interval; `held_out` is the mean of those tasks.
        They also leave out tasks that the study does not evaluate.
    """
    import pyarrow as pa

    names = ("run", "mixture", "student", "data_seed", "model_seed", "decay_from", "kind", "name", "score", "low")
    types = (*(pa.string(),) * 3, pa.int64(), pa.int64(), *(pa.string(),) * 3, *(pa.float64(),) * 3, pa.int64())
    columns = list(zip((*names, "high", "n"), types, strict=True))
    schema = pa.schema([*columns, *((name, pa.float64()) for name in FURTHER.values())])
    held_out = lineage.study.evaluation.held_out if lineage.study.evaluation else ()
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
        rows += [{**fields, **score} for score in _named_scores(manifest, held_out)]
    return pa.Table.from_pylist(rows, schema=schema)


FURTHER = {BITS: BITS, LAST_NAME: LAST_NAME, f"{BITS}/{LAST_NAME}": f"{BITS}_{LAST_NAME}"}
"""The columns of a score by other measures and estimates."""


def _named_scores(manifest: Mapping[str, Any], held_out: Sequence[str]) -> list[dict[str, Any]]:
    """Return each score of a manifest with its kind, name, interval and other measures and estimates."""
    tasks, unknown = manifest["tasks"], (None, None)
    intervals = {name: (score["interval"], score["n"]) for name, score in tasks.items()}
    unscored = unscored_tasks(tasks)
    if not held_out:
        intervals |= {name: (ends, None) for name, ends in manifest["category_intervals"].items()}
        intervals |= {name: (manifest[f"{name}_interval"] or unknown, None) for name in ("micro", "macro")}
    curve = [means_without(point, held_out) if held_out or unscored else point for point in manifest["curve"]]
    scores = final_scores({point["step"]: point_scores(point) for point in curve})
    rows = []
    for name, score in scores.items():
        if "/" not in name:
            (low, high), n = intervals.get(name, (unknown, None))
            kind = "task" if name in tasks else "mean" if name in MEANS else "category"
            further = {column: scores.get(f"{name}/{form}") for form, column in FURTHER.items()}
            rows.append({"kind": kind, "name": name, "score": score, "low": low, "high": high, "n": n, **further})
    return rows
