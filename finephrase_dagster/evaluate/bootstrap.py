"""How far a score could be off because its items are a sample: percentile bootstrap intervals.

Items are drawn again from their own task, with replacement, as many as there are; a category's or the
macro score's interval comes from the means of the tasks' redrawn scores. What it does not tell is how
much another seed of the student would change.
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
    """A task's score over redrawn items, once for each redrawing.

    Deterministic for a task and its values, whatever other tasks there are.

    Args:
        groups: the items' values by subset; the score is the mean of the subsets' means.
        resamples: how often.
    """
    generator = np.random.default_rng([SEED, zlib.crc32(task.encode())])
    total = np.zeros(resamples)
    for group in groups:
        values = np.asarray(group, dtype=np.float64)
        drawn = generator.integers(len(values), size=(resamples, len(values)))
        total += values[drawn].mean(axis=1)
    return total / len(groups)


def interval(means: NDArray[np.float64], mean: float) -> Interval:
    """The middle 95 % of redrawn scores; it holds the score itself, of which rounding may cost it."""
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return min(float(low), mean), max(float(high), mean)
