"""The noise of a difference between two mixtures: how far it moves when other random seeds train the students.

Three sources, in this order:
1. Both mixtures have three seeds or more: Welch's variance, each mixture's own. Its degrees of freedom are estimated
   from variances moderated towards each other, because those of three seeds are too uncertain to count alone.
2. Some mixture of the student has several seeds: the pool of all of them. A mixture's own variance counts next to the
   pool by its degrees of freedom.
3. No mixture has a second seed: the published spread of a student of that size.

Without any of them the noise is unknown. Pairing by seed is not assumed: in the published grids, scores of equal seeds
correlate by -.11 to .17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, variance
from typing import Any

import yaml

from finephrase_dagster.study.paths import SHIPPED

MODERATION = 2
"""The degrees of freedom that a pool of variances counts for, next to the variance of one mixture."""
ENOUGH = 3
"""Seeds from which a mixture's own variance counts alone."""
SAME_SIZE = 0.1
"""Largest relative difference in parameters between students of one size."""


@dataclass(frozen=True)
class Replicates:
    """The scores of one mixture's students, one per seed."""

    values: tuple[float, ...]

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance."""
        return len(self.values) - 1

    @property
    def variance(self) -> float:
        """The variance over seeds; 0 for one seed, whose degrees of freedom are 0 too."""
        return variance(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise of a difference of means.

    Attributes:
        variances: the variance of one seed, of the first and the second mixture.
        seeds: the number of seeds of each.
        degrees_of_freedom: of the variance of the difference.
        source: where the variances come from, in words.
    """

    variances: tuple[float, float]
    seeds: tuple[int, int]
    degrees_of_freedom: float
    source: str

    @property
    def parts(self) -> tuple[float, float]:
        """The variance of each mean."""
        return self.variances[0] / self.seeds[0], self.variances[1] / self.seeds[1]

    @property
    def variance(self) -> float:
        """The variance of the difference."""
        return sum(self.parts)

    @property
    def sd(self) -> float:
        """The standard deviation of one seed that gives this variance."""
        return (self.variance / (1 / self.seeds[0] + 1 / self.seeds[1])) ** 0.5


def noise_of(
    first: Replicates, second: Replicates, pool: Sequence[Replicates], published: tuple[float, str] | None
) -> Noise | None:
    """Return the noise of the difference of two means; None if it is unknown.

    Args:
        pool: the scores of all mixtures of the student, these two among them.
        published: standard deviation and name of the published spread; see `published_spread`.
    """
    seeds = first.seeds, second.seeds
    freedom = sum(sample.freedom for sample in pool)
    pooled = sum(sample.freedom * sample.variance for sample in pool) / freedom if freedom else 0.0
    if min(seeds) >= ENOUGH and first.variance + second.variance > 0:
        variances = first.variance, second.variance
        return Noise(
            variances=variances,
            seeds=seeds,
            degrees_of_freedom=welch_freedom(variances, seeds),
            source=f"this study: Welch, {seeds[0]} and {seeds[1]} seeds",
        )
    if pooled > 0:
        replicated = sum(sample.freedom > 0 for sample in pool)
        return Noise(
            variances=(_moderated(first, pooled), _moderated(second, pooled)),
            seeds=seeds,
            degrees_of_freedom=_pooled_freedom(first, second, pool, freedom, pooled),
            source=f"this study: pooled over {replicated} mixtures with several seeds",
        )
    if published:
        sd, name = published
        return Noise(variances=(sd**2, sd**2), seeds=seeds, degrees_of_freedom=PUBLISHED_FREEDOM, source=name)
    return None


def noise_of_one(
    sample: Replicates, pool: Sequence[Replicates], published: tuple[float, str] | None
) -> tuple[float, float, str] | None:
    """Return the standard deviation of one seed of a mixture, its degrees of freedom and its source."""
    if sample.seeds >= ENOUGH and sample.variance > 0:
        return sample.variance**0.5, sample.freedom, f"this study: its own {sample.seeds} seeds"
    noise = noise_of(sample, sample, pool, published)
    return (noise.sd, noise.degrees_of_freedom, noise.source) if noise else None


def _moderated(sample: Replicates, pooled: float) -> float:
    return (MODERATION * pooled + sample.freedom * sample.variance) / (MODERATION + sample.freedom)


def welch_freedom(variances: tuple[float, float], seeds: tuple[int, int]) -> float:
    """Return Welch's degrees of freedom, of variances moderated towards their pool."""
    freedoms = [count - 1 for count in seeds]
    both = list(zip(variances, freedoms, seeds, strict=True))
    pooled = sum(freedom * one for one, freedom, _ in both) / sum(freedoms)
    parts = [(MODERATION * pooled + freedom * one) / (MODERATION + freedom) / count for one, freedom, count in both]
    return sum(parts) ** 2 / sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))


def _pooled_freedom(
    first: Replicates, second: Replicates, pool: Sequence[Replicates], freedom: int, pooled: float
) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances, of which the pool is a part."""
    to_pool = sum(MODERATION / (MODERATION + sample.freedom) / sample.seeds for sample in (first, second))
    weights = {id(sample): to_pool * sample.freedom / freedom for sample in pool}
    for sample in (first, second):
        own = sample.freedom / (MODERATION + sample.freedom) / sample.seeds
        weights[id(sample)] = weights.get(id(sample), 0.0) + own
    terms = [
        (weights[id(sample)] * _moderated(sample, pooled), sample.freedom) for sample in pool if sample.freedom > 0
    ]
    return sum(term for term, _ in terms) ** 2 / sum(term**2 / of_sample for term, of_sample in terms)


PUBLISHED_FREEDOM = 16
"""Of the published spread of each student: two mixtures, nine seeds each."""


def published_spread(student: str, parameters: int | None, metric: str) -> tuple[float, str] | None:
    """Return the published standard deviation over seeds of a student of this size; None if there is no such size."""
    for name, spread in _spreads().items():
        alike = parameters is not None and abs(parameters / spread["parameters"] - 1) <= SAME_SIZE
        if (alike or (parameters is None and student == name)) and metric in spread:
            return spread[metric], f"published spread of the student {name}: 2 mixtures, 9 seeds each"
    return None


@cache
def _spreads() -> Mapping[str, Mapping[str, Any]]:
    return yaml.safe_load((SHIPPED / "studies" / "figures.yaml").read_text(encoding="utf-8"))["seed_spread"]
