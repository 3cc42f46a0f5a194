"""Measure how well intermediate scores predict the final ranking, and what stopping early by them would cost."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Curves = Mapping[str, Mapping[int, float]]
"""Scores by run and step; the last step of a run is its final score."""

KEPT = (0.25, 0.5)
"""Shares of the runs that an early stop would continue."""
DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class EarlyLook:
    """How well the scores at one step predict the final scores.

    Attributes:
        step: optimizer steps.
        part: the step as a share of all steps.
        runs: number of runs that were scored at this step.
        rank_correlation: Spearman's correlation of the scores at this step with the final scores; None for fewer than
            three runs or if all scores are equal.
        regret: by share of the runs that continue: how much lower the best final score among them is than the best of
            all, as a mean over resamples of the runs.
    """

    step: int
    part: float
    runs: int
    rank_correlation: float | None
    regret: Mapping[float, float]


def look_early(curves: Curves, *, seed: int = 0) -> list[EarlyLook]:
    """Return one result per step at which at least two runs were scored before their end.

    Only runs with the most common number of steps count, since a step is another share of a longer or shorter run.
    """
    ends = [max(curve) for curve in curves.values() if curve]
    if not ends:
        return []
    last = max(set(ends), key=lambda end: (ends.count(end), end))
    complete = {run: curve for run, curve in curves.items() if curve and max(curve) == last}
    looks = []
    for step in sorted({step for curve in complete.values() for step in curve if step < last}):
        pairs = [(curve[step], curve[last]) for curve in complete.values() if step in curve]
        if len(pairs) > 1:
            looks.append(
                EarlyLook(
                    step=step,
                    part=step / last,
                    runs=len(pairs),
                    rank_correlation=spearman([early for early, _ in pairs], [final for _, final in pairs]),
                    regret={kept: expected_regret(pairs, kept, seed=seed) for kept in KEPT},
                )
            )
    return looks


def expected_regret(pairs: Sequence[tuple[float, float]], kept: float, *, seed: int) -> float:
    """Return how much of the best final score is lost if only the best runs continue.

    Args:
        pairs: each run's early and final score.
        kept: share of the runs that continue, best early score first; at least one does.
        seed: of the resamples with replacement, which represent other sets of similar runs.
    """
    draw = random.Random(seed)
    lost = 0.0
    for _ in range(DRAWS):
        drawn = [draw.choice(pairs) for _ in pairs]
        continued = sorted(drawn, key=lambda pair: -pair[0])[: max(1, math.ceil(kept * len(drawn)))]
        lost += max(final for _, final in drawn) - max(final for _, final in continued)
    return lost / DRAWS


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the rank correlation, with mean ranks for ties; None for fewer than three pairs or equal values."""
    from scipy.stats import spearmanr

    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(spearmanr(first, second).statistic)
