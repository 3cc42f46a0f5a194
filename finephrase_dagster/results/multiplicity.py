"""Many comparisons at once: p-values and bounds that hold for a family of them.

Against one baseline: Dunnett's test, with the correlations that the common baseline causes and each comparison's own
degrees of freedom. All pairs: Tukey's, as in Games & Howell. Exploration: the false discovery rate of Benjamini &
Hochberg.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import scipy  # whose parts are imported when they are first used
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from finephrase_dagster.results.analysis import Question

LEVEL = 0.05
NEGLIGIBLE = 1e-3
"""Below this probability, that two statistics exceed a bound is too rare to count."""
COMMON = 0.85
"""The part of a common baseline's loading that counts where each comparison estimates its noise by itself: they move
together less than Dunnett's test assumes. `benchmarks/verdicts.py` shows what this figure gives."""
Loadings = tuple[tuple[float, ...], ...]
"""Per baseline, `loading` of each comparison with it."""


def loading(seeds: tuple[int, int], share: float = 1.0, *, estimated: bool = True) -> float:
    """Return the root of the share that the baseline's mean has in the variance of a difference, as far as it counts.

    Args:
        seeds: of the baseline and of the mixture.
        share: of the variance over seeds in that of the difference; the rest is over items.
        estimated: whether each comparison estimates its noise by itself; False for a published spread.
    """
    return (COMMON if estimated else 1.0) * (share * seeds[1] / sum(seeds)) ** 0.5


def adjusted(
    question: Question,
    statistics: Sequence[float],
    freedoms: Sequence[float],
    loadings: Loadings,
    arms: int,
) -> tuple[list[float], list[float]]:
    """Return the p-value of each comparison and the factor of its standard error in its interval.

    Args:
        statistics: differences in standard errors.
        freedoms: degrees of freedom of each.
        arms: the number of mixtures, among which are all pairs.
    """
    pairs = list(zip(np.abs(statistics).tolist(), freedoms, strict=True))
    if question == "baseline":
        common = tuple(tuple(round(loading, 2) for loading in group) for group in loadings)
        return [exceedance(value, freedom, common) for value, freedom in pairs], [
            critical(freedom, common) for freedom in freedoms
        ]
    if question == "pairs":
        return [range_exceedance(2**0.5 * value, freedom, arms) for value, freedom in pairs], [
            _tukey(freedom, arms) for freedom in freedoms
        ]
    raw = [float(2 * scipy.stats.t.sf(value, freedom)) for value, freedom in pairs]
    found = [float(p) for p in scipy.stats.false_discovery_control(raw)] if raw else []
    chosen = max(1, sum(p <= LEVEL for p in found))  # Benjamini & Yekutieli 2005: intervals of what was selected
    return found, [float(scipy.stats.t.ppf(1 - LEVEL * chosen / len(raw) / 2, freedom)) for freedom in freedoms]


def exceedance(bound: float, freedom: float, family: Loadings) -> float:
    """Return the probability that some statistic of a family exceeds a bound although no mixture differs."""
    bonferroni = float(2 * scipy.stats.t.sf(bound, freedom)) * sum(map(len, family))
    if bonferroni < NEGLIGIBLE or family == ((family[0][0],),):
        return bonferroni
    shares, weights = _scales(freedom)
    inside = np.ones_like(shares)
    for group in family:
        inside *= _all_inside(bound * shares, group)
    return float(np.clip(1 - weights @ inside, 0.0, 1.0))


@cache
def critical(freedom: float, family: Loadings) -> float:
    """Return the bound that some statistic of a family exceeds with probability `LEVEL`."""
    single = float(scipy.stats.t.ppf(1 - LEVEL / 2, freedom))
    comparisons = sum(map(len, family))
    if comparisons == 1:
        return single
    bonferroni = float(scipy.stats.t.ppf(1 - LEVEL / 2 / comparisons, freedom))
    return float(
        scipy.optimize.brentq(lambda bound: exceedance(bound, freedom, family) - LEVEL, 0.9 * single, 1.1 * bonferroni)
    )


def range_exceedance(bound: float, freedom: float, arms: int) -> float:
    """Return the probability that the studentized range of equal mixtures exceeds a bound.

    SciPy's `studentized_range` computes it too, a thousand times slower.
    """
    pairs = arms * (arms - 1) / 2
    bonferroni = float(2 * scipy.stats.t.sf(bound / 2**0.5, freedom)) * pairs
    if bonferroni < NEGLIGIBLE or arms == 2:
        return bonferroni
    shares, weights = _scales(freedom)
    nodes, widths = leggauss(96)
    least = 9 * nodes[None, :]  # the smallest of the means
    rest = (scipy.special.ndtr(least + bound * shares[:, None]) - scipy.special.ndtr(least)) ** (arms - 1)
    inside = (arms * np.exp(-(least**2) / 2) / np.sqrt(2 * np.pi) * rest) @ widths * 9
    return float(np.clip(1 - weights @ inside, 0.0, 1.0))


@cache
def _tukey(freedom: float, arms: int) -> float:
    """Return the factor of a standard error that the largest difference of equal mixtures exceeds at `LEVEL`."""
    single = float(scipy.stats.t.ppf(1 - LEVEL / 2, freedom))
    if arms == 2:
        return single
    most = float(scipy.stats.t.ppf(1 - LEVEL / arms / (arms - 1), freedom))
    return float(
        scipy.optimize.brentq(
            lambda bound: range_exceedance(2**0.5 * bound, freedom, arms) - LEVEL, 0.9 * single, 1.1 * most
        )
    )


@cache
def _scales(freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights over the estimated standard deviation, as a share of the true one."""
    nodes, weights = leggauss(48)
    return np.sqrt(scipy.stats.chi2.ppf((nodes + 1) / 2, freedom) / freedom), weights / 2


@cache
def _normal_nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights of the standard normal distribution."""
    nodes, weights = hermegauss(24)
    return nodes, weights / np.sqrt(2 * np.pi)


def _all_inside(bounds: NDArray[np.float64], group: Sequence[float]) -> NDArray[np.float64]:
    """Return the probability that all statistics with one baseline lie within each bound, given its estimated scale."""
    nodes, weights = _normal_nodes()
    inside = np.ones((len(bounds), len(nodes)))
    loadings, counts = np.unique(np.asarray(group), return_counts=True)
    for loading, count in zip(loadings, counts, strict=True):
        rest = np.sqrt(max(1 - loading**2, 1e-6))
        center, width = loading * nodes[None, :] / rest, bounds[:, None] / rest
        inside *= (scipy.special.ndtr(width - center) - scipy.special.ndtr(-width - center)) ** count
    return inside @ weights
