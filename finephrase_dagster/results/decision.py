"""What more seeds would decide: the chance of a verdict, the seeds that it takes, the smallest difference in sight."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import nct

from finephrase_dagster.results.multiplicity import critical
from finephrase_dagster.results.noise import ENOUGH, PUBLISHED_FREEDOM, Noise, welch_freedom

POWER = 0.8
"""The chance of a decision that `seeds_to_decide` and `visible_difference` promise."""
MOST_SEEDS = 200


@dataclass(frozen=True, kw_only=True)
class Decision:
    """More seeds per mixture, and the chance that they decide."""

    seeds: int
    chance: float


def seeds_to_decide(
    difference: float, noise: Noise, *, pool_freedom: int, comparisons: int, smallest: float
) -> Decision | None:
    """Return how many more seeds per mixture decide with probability `POWER`, if the true difference is this one.

    Args:
        noise: of the difference with the seeds that there are.
        pool_freedom: degrees of freedom of all variances of the student now.
        comparisons: the number of comparisons with the baseline.
        smallest: the smallest difference of interest: below it, a tie is a decision too.

    Returns:
        None if `MOST_SEEDS` do not suffice.
    """

    def with_more(more: int) -> Decision:
        seeds = noise.seeds[0] + more, noise.seeds[1] + more
        freedom = _freedom(noise.variances, seeds, pool_freedom + 2 * more)
        parts = noise.variances[0] / seeds[0], noise.variances[1] / seeds[1]
        bound = _bound(comparisons, (parts[0] / sum(parts)) ** 0.5, freedom)
        found = chance_of_difference(difference, sum(parts), freedom, bound)
        return Decision(seeds=more, chance=max(found, _chance_of_tie(difference, sum(parts), bound, smallest)))

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
    variances = sd**2, sd**2
    freedom = _freedom(variances, (seeds, seeds), arms * (seeds - 1))
    bound = _bound(max(1, arms - 1), 0.7, freedom)
    variance = 2 * sd**2 / seeds

    def lacking(difference: float) -> float:
        return chance_of_difference(difference, variance, freedom, bound) - POWER

    return float(brentq(lacking, 0.0, 40 * bound * variance**0.5))


def chance_of_difference(difference: float, variance: float, freedom: float, bound: float) -> float:
    """Return the probability that an interval excludes 0 on the side of the true difference."""
    return float(1 - nct.cdf(bound, freedom, abs(difference) / variance**0.5))


def _chance_of_tie(difference: float, variance: float, bound: float, smallest: float) -> float:
    sd = variance**0.5
    room = smallest - bound * sd
    return float(max(0.0, ndtr((room - difference) / sd) - ndtr((-room - difference) / sd))) if room > 0 else 0.0


def _freedom(variances: tuple[float, float], seeds: tuple[int, int], pooled: int) -> float:
    return welch_freedom(variances, seeds) if min(seeds) >= ENOUGH else float(pooled or PUBLISHED_FREEDOM)


def _bound(comparisons: int, loading: float, freedom: float) -> float:
    """Return the bound of a family of equal comparisons; roughly the same ones share it, as it takes time."""
    rounded = round(freedom, 1) if freedom < 5 else float(round(freedom)) if freedom < 20 else 5.0 * round(freedom / 5)
    return critical(rounded, ((round(loading, 1),) * comparisons,))
