"""How far a score may be off because its items are a sample: percentile bootstrap intervals.

The items of each task (and subset) are resampled with replacement; the intervals of categories and of the macro score
come from the means of the tasks' resampled scores. They do not include how much another seed of the student changes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
COVERAGE = 0.95
SEED = 0

Interval = tuple[float, float]
"""The lower and the upper end."""


def resampled_means(task: str, groups: Sequence[Sequence[float]], *, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Return a task's score for each resampling of its items.

    The result depends on the task and its values alone, not on which other tasks there are.

    Args:
        task: the benchmark's name, which seeds the generator.
        groups: the items' values by subset; the score is the mean of the subsets' means.
        resamples: the number of resamplings.
    """
    generator = np.random.default_rng([SEED, zlib.crc32(task.encode())])
    total = np.zeros(resamples)
    for group in groups:
        values = np.asarray(group, dtype=np.float64)
        indices = generator.integers(len(values), size=(resamples, len(values)))
        total += values[indices].mean(axis=1)
    return total / len(groups)


def interval(means: NDArray[np.float64], mean: float) -> Interval:
    """Return the middle 95 % of resampled scores, widened to contain the score where rounding excludes it."""
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return min(float(low), mean), max(float(high), mean)
