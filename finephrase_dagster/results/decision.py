"""What more seeds would decide: the chance of a verdict, the seeds that it takes, the smallest difference in sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are imported when they are first used
from numpy.typing import NDArray

from finephrase_dagster.results.multiplicity import Loadings, critical, loading
from finephrase_dagster.results.noise import PUBLISHED_FREEDOM, Noise, moderated

POWER = 0.8
"""The chance of a decision that `seeds_to_decide` and `visible_difference` promise."""
MOST_SEEDS = 200
DRAWS = 500
GRID = np.array([1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 11, 16, 25, 50, 150, 1e6])
"""Degrees of freedom for which bounds are computed."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """More seeds per mixture, and the chance that they decide."""

    seeds: int
    chance: float


def seeds_to_decide(
    difference: float, noise: Noise, *, others: tuple[int, float], comparisons: int, smallest: float, items: float = 0.0
) -> Decision | None:
    """Return how many more seeds per mixture decide with probability `POWER`, if the true difference is this one.

    Args:
        noise: of the difference with the seeds that there are.
        others: degrees of freedom and pooled variance of the other mixtures of the student.
        comparisons: the number of comparisons with the baseline.
        smallest: the smallest difference of interest: below it, a tie is a decision too.
        items: the variance of the difference over benchmark items, which more seeds do not reduce.

    Returns:
        None if `MOST_SEEDS` do not suffice.
    """

    def with_more(more: int) -> Decision:
        seeds = noise.seeds[0] + more, noise.seeds[1] + more
        outlook = Outlook.of(noise.variances, seeds, others, comparisons, items)
        chance = max(outlook.chance_of_difference(difference), outlook.chance_of_tie(difference, smallest))
        return Decision(seeds=more, chance=chance)

    few = map(with_more, range(1, 9))
    first = next((decision for decision in few if decision.chance >= POWER), None)
    if first or with_more(MOST_SEEDS).chance < POWER:
        return first
    low, high = 8, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if with_more(middle).chance >= POWER else (middle, high)
    return with_more(high)


def visible_difference(*, sd: float, seeds: int, arms: int) -> float:
    """Return the difference to a baseline that a study finds with probability `POWER`, per comparison.

    Args:
        sd: standard deviation of one seed.
        seeds: the seeds of each mixture.
        arms: the number of mixtures, the baseline among them.
    """
    others = (arms - 2) * (seeds - 1), sd**2
    outlook = Outlook.of((sd**2, sd**2), (seeds, seeds), others, max(1, arms - 1))
    return float(scipy.optimize.brentq(lambda size: outlook.chance_of_difference(size) - POWER, 0.0, outlook.sure))


@dataclass(frozen=True)
class Outlook:
    """What intervals a design gives: over studies with other seeds, and thus other estimates of the noise.

    Attributes:
        error: the true standard deviation of a difference of means.
        widths: half the width of the interval in each of many such studies.
    """

    error: float
    widths: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        variances: tuple[float, float],
        seeds: tuple[int, int],
        others: tuple[int, float],
        comparisons: int,
        items: float = 0.0,
    ) -> Outlook:
        """Return the outlook of a comparison whose true variances are known; see `moderated` and `seeds_to_decide`."""
        true = variances[0] / seeds[0] + variances[1] / seeds[1]
        freedoms = seeds[0] - 1, seeds[1] - 1, others[0]
        draw = np.random.default_rng(0)
        first, second, rest = (
            variance * draw.chisquare(freedom, DRAWS) / freedom if freedom else np.zeros(DRAWS)
            for variance, freedom in zip((*variances, others[1]), freedoms, strict=True)
        )
        if replicated := sum(freedoms) > 0:
            estimated, degrees = moderated((first, second), seeds, (others[0], rest))
        else:
            estimated, degrees = (np.full(DRAWS, variances[0]), np.full(DRAWS, variances[1])), PUBLISHED_FREEDOM
        family = ((round(loading(seeds, estimated=replicated), 2),) * comparisons,)
        bounds = bounds_of(np.broadcast_to(degrees, (DRAWS,)), family)
        widths = bounds * np.sqrt(estimated[0] / seeds[0] + estimated[1] / seeds[1] + items)
        return cls(error=(true + items) ** 0.5, widths=widths)

    @property
    def sure(self) -> float:
        """A difference that is found with near certainty."""
        return float(self.widths.max()) + 5 * self.error

    def chance_of_difference(self, difference: float) -> float:
        """Return the probability that the interval excludes 0 on the side of the true difference."""
        return float(scipy.special.ndtr((abs(difference) - self.widths) / self.error).mean())

    def chance_of_tie(self, difference: float, smallest: float) -> float:
        """Return the probability that the interval lies within the smallest difference of interest."""
        room = np.maximum(0.0, smallest - self.widths)
        low, high = (scipy.special.ndtr((end - difference) / self.error) for end in (-room, room))
        inside = high - low
        return float(inside[room > 0].sum() / len(room))


def bounds_of(freedoms: NDArray[np.float64], family: Loadings) -> NDArray[np.float64]:
    """Return the bounds of a family by degrees of freedom, between those of a grid, as one takes time."""
    low, high = np.searchsorted(GRID, [freedoms.min(), freedoms.max()])
    grid = GRID[max(0, low - 1) : high + 1]
    return np.interp(1 / freedoms, 1 / grid[::-1], [critical(float(freedom), family) for freedom in grid[::-1]])
