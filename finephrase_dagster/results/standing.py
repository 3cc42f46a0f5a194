"""Where a mixture stands among comparable ones: intervals of ranks, the chance to be the best, shrunken scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finephrase_dagster.results.noise import Replicates, noise_of_one

DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One mixture among several.

    Attributes:
        rank_interval: the ranks, from 1, that it has in 95 % of the draws.
        p_best: the share of the draws in which it is the best.
        shrunk: its mean score, moved towards the mean of all as far as noise explains their spread. The best of many
            has had luck: this is what to expect of it again.
    """

    rank_interval: tuple[int, int]
    p_best: float
    shrunk: float


def standings(
    samples: Sequence[Replicates], pool: Sequence[Replicates], published: tuple[float, str] | None
) -> list[Standing] | None:
    """Return the standing of each mixture, by drawing their means anew with the noise of seeds; None without noise.

    Args:
        samples: the scores of the comparable mixtures.
        pool: the scores of all mixtures of the student.
        published: see `noise_of`.
    """
    means = np.array([sample.mean for sample in samples])
    noises = [noise_of_one(sample, pool, published) for sample in samples]
    known = [noise for noise in noises if noise]
    if len(known) < len(samples):
        return None
    errors = np.array([sd for sd, _, _ in known]) / np.sqrt([sample.seeds for sample in samples])
    freedoms = np.array([freedom for _, freedom, _ in known])
    draw = np.random.default_rng(0)
    drawn = means + errors * draw.standard_t(freedoms, (DRAWS, len(samples)))
    ranks = 1 + np.argsort(np.argsort(-drawn, axis=1), axis=1)
    lows, highs = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest")
    center = float(means.mean())
    spread = max(0.0, float(means.var(ddof=1) - (errors**2).mean())) if len(samples) > 1 else float("inf")
    shrunk = center + (means - center) / (1 + errors**2 / spread) if spread else np.full(len(samples), center)
    columns = zip(lows, highs, (ranks == 1).mean(axis=0), shrunk, strict=True)
    return [
        Standing(rank_interval=(int(low), int(high)), p_best=float(best), shrunk=float(score))
        for low, high, best, score in columns
    ]
