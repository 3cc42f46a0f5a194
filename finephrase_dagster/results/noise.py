"""The noise of a difference between two mixtures: how far it moves when other random seeds train the students.

Two sources, in this order:
1. Some mixture of the student has several seeds. Then each mixture has its own variance, as with Welch, moderated
   towards the pool of all mixtures of the student, because a variance of few seeds is uncertain. A mixture with one
   seed has the variance of the pool.
2. No mixture has a second seed: the published spread of a student of that size.

Without any of them the noise is unknown. Pairing by seed is not assumed: in the published grids, scores of equal seeds
correlate by -.11 to .17.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, variance
from typing import Any

import numpy as np
import yaml

from finephrase_dagster.evaluate.categories import task_weights
from finephrase_dagster.evaluate.metric import Metric
from finephrase_dagster.study.paths import SHIPPED

ENOUGH = 3
"""Seeds from which a mixture's own variance can be trusted: alone where it is not compared, most of all where it is."""
MODERATION_SHARE = 0.1
MODERATION, MODERATION_OF_FEW = (0.05, 0.4), (0.3, 0.75)
"""The degrees of freedom that the pool counts for, next to the variance of one mixture: a share of those that other
mixtures have, within bounds; the second bounds if one of the two mixtures has fewer than `ENOUGH` seeds. More would
make the intervals of mixtures that are noisier than the others miss the truth too often; less would make all intervals
wide. `benchmarks/verdicts.py` shows what these figures give."""
SAME_SIZE = 0.1
"""Largest relative difference in parameters between students of one size."""


@dataclass(frozen=True)
class Replicates:
    """The scores of one mixture's students, one per seed."""

    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.values)

    def times(self, factor: float) -> Replicates:
        """Return the scores multiplied by a factor."""
        return Replicates(tuple(factor * value for value in self.values))

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance."""
        return max(len(self.values) - 1, 0)

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
        estimated: from the scores of this study; False for a published spread.
    """

    variances: tuple[float, float]
    seeds: tuple[int, int]
    degrees_of_freedom: float
    source: str
    estimated: bool = True

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
    first: Replicates,
    second: Replicates,
    pool: Sequence[Replicates],
    published: tuple[float, str] | None,
    scope: str = "this study",
) -> Noise | None:
    """Return the noise of the difference of two means; None if it is unknown.

    Args:
        pool: the scores of all mixtures of the student, these two among them.
        published: standard deviation and name of the published spread; see `published_spread`.
        scope: the studies that the scores are from, in words.
    """
    seeds = first.seeds, second.seeds
    if pool_of(pool)[1] > 0:
        others = pool_of([sample for sample in pool if sample is not first and sample is not second])
        variances, degrees = moderated((first.variance, second.variance), seeds, others)
        source = f"{scope}: Welch, {seeds[0]} and {seeds[1]} seeds"
        if min(seeds) == 1:
            source = f"{scope}: {_pooled(pool)}"
        return Noise(variances=variances, seeds=seeds, degrees_of_freedom=float(degrees), source=source)
    if published:
        sd, name = published
        variances = sd**2, sd**2
        return Noise(
            variances=variances, seeds=seeds, degrees_of_freedom=PUBLISHED_FREEDOM, source=name, estimated=False
        )
    return None


def pool_of(samples: Sequence[Replicates]) -> tuple[int, float]:
    """Return the degrees of freedom and the pooled variance of some mixtures."""
    freedom = sum(sample.freedom for sample in samples)
    return freedom, sum(sample.freedom * sample.variance for sample in samples) / freedom if freedom else 0.0


Number = Any
"""A float, or an array of one length for each argument."""


def moderated(
    variances: tuple[Number, Number], seeds: tuple[int, int], others: tuple[int, Number]
) -> tuple[tuple[Number, Number], Number]:
    """Return the variances of two mixtures, moderated towards the pool, and the degrees of freedom of their sum.

    The degrees of freedom are Satterthwaite's, but at most those for equal variances: otherwise, a variance of few
    seeds that is too small by chance would also count for too much.

    Args:
        others: degrees of freedom and pooled variance of the other mixtures of the student.
    """
    freedoms = [count - 1 for count in seeds]
    total = sum(freedoms) + others[0]
    pooled = (sum(f * v for f, v in zip(freedoms, variances, strict=True)) + others[0] * others[1]) / total
    least, most = MODERATION if min(seeds) >= ENOUGH else MODERATION_OF_FEW
    weight = min(max(least, MODERATION_SHARE * others[0]), most)
    first, second = ((weight * pooled + f * v) / (weight + f) for f, v in zip(freedoms, variances, strict=True))
    shares = [1 / (weight + f) / count for f, count in zip(freedoms, seeds, strict=True)]
    by_pool = weight * sum(shares) / total
    factors = [*(share + by_pool for share in shares), by_pool]
    counts = [*freedoms, others[0]]
    steady = others[0] + 1  # the pool's weight in the variances that the degrees of freedom are computed with
    # As shares of the pool's, because the squares of very small variances are 0.
    likely = [(steady + f * (v / pooled)) / (steady + f) for f, v in zip(freedoms, variances, strict=True)]
    degrees = [
        sum(f * factor * v for f, factor, v in zip(counts, factors, values, strict=True)) ** 2
        / sum(f * (factor * v) ** 2 for f, factor, v in zip(counts, factors, values, strict=True))
        for values in ([1.0] * 3, [*likely, 1.0])
    ]
    return (first, second), np.minimum(*degrees)


def noise_of_one(
    sample: Replicates, pool: Sequence[Replicates], published: tuple[float, str] | None
) -> tuple[float, float, str] | None:
    """Return the standard deviation of one seed of a mixture, its degrees of freedom and its source."""
    if sample.seeds >= ENOUGH and sample.variance > 0:
        return sample.variance**0.5, sample.freedom, f"this study: its own {sample.seeds} seeds"
    freedom, pooled = pool_of(pool)
    if pooled > 0:
        return pooled**0.5, freedom, f"this study: {_pooled(pool)}"
    return (published[0], PUBLISHED_FREEDOM, published[1]) if published else None


def _pooled(pool: Sequence[Replicates]) -> str:
    replicated = sum(sample.freedom > 0 for sample in pool)
    return f"pooled over {replicated} mixture{'s' * (replicated > 1)} with several seeds"


def is_same_size(one: int | None, other: int | None) -> bool:
    """Return whether students with these numbers of parameters are of one size; False if one is unknown."""
    return one is not None and other is not None and abs(one / other - 1) <= SAME_SIZE


PUBLISHED_FREEDOM = 16
"""Of the published spread of each student: two mixtures, nine seeds each."""


def published_spread(
    student: str, parameters: int | None, metric: str, held_out: Collection[str] = ()
) -> tuple[float, str] | None:
    """Return the published standard deviation over seeds of a student of this size.

    None if there is no such size, or if the score was not published: bits per byte, or a mean without held-out tasks.
    """
    name = Metric.read(metric).name
    if task_weights(name, held_out) != task_weights(name):
        return None
    for name, spread in _spreads().items():
        alike = is_same_size(parameters, spread["parameters"]) or (parameters is None and student == name)
        if alike and metric in spread:
            return spread[metric], f"published spread of the student {name}: 2 mixtures, 9 seeds each"
    return None


@cache
def _spreads() -> Mapping[str, Mapping[str, Any]]:
    return yaml.safe_load((SHIPPED / "studies" / "figures.yaml").read_text(encoding="utf-8"))["seed_spread"]
