"""Which setting is the best: the simplest one among those that differ from the fastest by no more than the noise.

Runs of one setting differ by a share of their speed that is alike for all settings, so the noise is the spread of
logarithms, pooled over settings. Quantiles are those of Student's t: with few runs, the spread itself is uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Generic, NamedTuple

from finephrase_dagster.throughput.halving import Runs, S


class Spread(NamedTuple):
    """The relative spread of runs of one setting: a standard deviation of logarithms, and its degrees of freedom."""

    sd: float
    freedom: int

    def margin(self, confidence: float, *counts: int) -> float:
        """Return half the width of the interval of a mean of logarithms, or of a difference of two means.

        Infinite if no setting was measured twice.
        """
        if not self.freedom:
            return math.inf
        from scipy.special import stdtrit

        quantile = float(stdtrit(self.freedom, (1 + confidence) / 2))
        return quantile * self.sd * math.sqrt(sum(1 / count for count in counts))


def pooled_spread(runs: Iterable[Sequence[float]]) -> Spread:
    """Return the spread of runs around the means of their settings."""
    groups = [[math.log(value) for value in values] for values in runs if len(values) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    squares = math.fsum((value - fmean(group)) ** 2 for group in groups for value in group)
    return Spread(math.sqrt(squares / freedom) if freedom else 0.0, freedom)


def typical(values: Sequence[float]) -> float:
    """Return the geometric mean of runs."""
    return math.exp(fmean(map(math.log, values)))


def interval(values: Sequence[float], spread: Spread, confidence: float) -> tuple[float, float] | None:
    """Return the interval of a setting's speed; None if the spread is not known."""
    margin = spread.margin(confidence, len(values))
    if math.isinf(margin):
        return None
    return typical(values) * math.exp(-margin), typical(values) * math.exp(margin)


class Chosen(NamedTuple, Generic[S]):
    """The chosen setting, the fastest one, and those that cannot be told apart from the fastest."""

    chosen: S
    fastest: S
    ties: tuple[S, ...]


def choose(runs: Runs[S], spread: Spread, confidence: float, complexity: Callable[[S], int]) -> Chosen[S]:
    """Return the simplest of the settings that are not slower than the fastest by more than the noise.

    Each setting is compared with the fastest at a confidence that holds for all comparisons together (Bonferroni). Of
    equally simple ones, the faster is chosen.

    Args:
        runs: the values by setting, at least one setting.
        complexity: the number of changes that a setting makes.
    """
    speed = {setting: typical(values) for setting, values in runs.items()}
    fastest = max(speed, key=lambda setting: speed[setting])
    each = 1 - (1 - confidence) / max(1, len(runs) - 1)
    ties = tuple(
        setting
        for setting, values in runs.items()
        if math.log(speed[fastest] / speed[setting]) <= spread.margin(each, len(values), len(runs[fastest]))
        or setting == fastest
    )
    chosen = min(ties, key=lambda setting: (complexity(setting), -speed[setting]))
    return Chosen(chosen, fastest, ties)
