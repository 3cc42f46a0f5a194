"""Looking early: how far scores on the way tell the order at the end, and what stopping by them would cost."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Curves = Mapping[str, Mapping[int, float]]
"""Scores by run and step; the last step of a run is its final score."""

KEPT = (0.25, 0.5)
"""Parts of the runs that a rule would let go on."""
DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class EarlyLook:
    """What the scores at one step tell of the final ones.

    Attributes:
        step: optimizer steps.
        part: of all steps.
        runs: that were scored at this step.
        rank_correlation: Spearman's, of the scores at this step with the final ones; None for fewer than three runs
            or where all scores are equal.
        regret: by the part of the runs that would go on: how much lower the best final score among them is than
            the best of all, in the mean over resamples of the runs.
    """

    step: int
    part: float
    runs: int
    rank_correlation: float | None
    regret: Mapping[float, float]


def look_early(curves: Curves, *, seed: int = 0) -> list[EarlyLook]:
    """One look a step at which at least two runs were scored before their end.

    Runs that were trained for another number of steps than most are left out, for their steps mean another part.
    """
    ends = [max(curve) for curve in curves.values() if curve]
    if not ends:
        return []
    last = max(set(ends), key=lambda end: (ends.count(end), end))
    whole = {run: curve for run, curve in curves.items() if curve and max(curve) == last}
    looks = []
    for step in sorted({step for curve in whole.values() for step in curve if step < last}):
        pairs = [(curve[step], curve[last]) for curve in whole.values() if step in curve]
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
    """What is lost by training only the best part of the runs to their end.

    Args:
        pairs: each run's early and final score.
        kept: the part of the runs that goes on, by their early scores; at least one does.
        seed: of the resamples, which stand for other sets of runs like these.
    """
    draw = random.Random(seed)
    lost = 0.0
    for _ in range(DRAWS):
        drawn = [draw.choice(pairs) for _ in pairs]
        going_on = sorted(drawn, key=lambda pair: -pair[0])[: max(1, math.ceil(kept * len(drawn)))]
        lost += max(final for _, final in drawn) - max(final for _, final in going_on)
    return lost / DRAWS


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The rank correlation, with mean ranks where values are equal; None for fewer than three pairs or no spread."""
    from scipy.stats import spearmanr

    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(spearmanr(first, second).statistic)
