"""The benchmark items as a source of noise: how far a difference moves with other items of the same kind.

Two students answer the same items, so the difference is taken item by item. Questions on one passage are one cluster.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

Values = Mapping[tuple[str, str, str], tuple[str, float]]
"""The cluster and the mean score over seeds of each item, by task, subset and item."""
QUESTION = "Question: "
"""What follows the passage in a prompt."""


def read_items(files: Sequence[Path], measure: str) -> Values | None:
    """Return the mean over models of the items that all of them answered; None if a file is missing.

    Args:
        measure: the column with the score of each item.
    """
    import pyarrow.parquet as pq

    if not files or not all(path.is_file() for path in files):
        return None
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    clusters: dict[tuple[str, str, str], str] = {}
    for path in files:
        table = pq.read_table(path, columns=["task", "subset", "item", "query", measure])
        for task, subset, item, query, score in zip(*(column.to_pylist() for column in table.columns), strict=True):
            key = (task, subset or "", item)
            scores[key].append(score)
            clusters[key] = query.rpartition(QUESTION)[0] or item
    return {
        key: (clusters[key], sum(values) / len(files)) for key, values in scores.items() if len(values) == len(files)
    }


def item_variance(first: Values, second: Values, tasks: Mapping[str, float]) -> tuple[float, int] | None:
    """Return the variance of the difference over shared items, clustered by passage, and the number of clusters.

    None if there are no items of some task that both have.

    Args:
        tasks: the weight of each task in the score.
    """
    shared = [key for key in first if key in second and key[0] in tasks]
    if {key[0] for key in shared} != set(tasks):
        return None
    sizes = Counter(key[:2] for key in shared)
    subsets = Counter(task for task, _ in sizes)
    means: dict[tuple[str, str], float] = defaultdict(float)
    for key in shared:
        means[key[:2]] += (second[key][1] - first[key][1]) / sizes[key[:2]]
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for key in shared:
        weight = tasks[key[0]] / subsets[key[0]] / sizes[key[:2]]
        sums[key[0], first[key][0]] += weight * (second[key][1] - first[key][1] - means[key[:2]])
    clusters = len(sums)
    return (sum(value**2 for value in sums.values()) * clusters / (clusters - 1), clusters) if clusters > 1 else None
