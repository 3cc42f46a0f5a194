"""Are verdicts right as often as they promise? Simulated studies whose truth is known, with the published noise.

Each study has a baseline and mixtures that differ by a known amount; students differ by seeds as the published ones do.
Counted: false "beats" and "loses" per comparison and per study, intervals that miss the truth, studies that find the
difference that `visible_difference` promises, and pairs of equal mixtures that are called different.

    python benchmarks/verdicts.py [--draws 2000]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np

from finephrase_dagster.results.decision import POWER, visible_difference
from finephrase_dagster.results.noise import published_spread
from finephrase_dagster.results.scored_runs import ScoredRun
from finephrase_dagster.results.verdict import Verdict, compare

SPREAD = published_spread("1.7b", None, "macro")
assert SPREAD is not None
SD = SPREAD[0]
ORIGINAL, TABLE = 0.00269, 0.00159  # the standard deviations of the two published mixtures
BASE = 0.12
DESIGNS: dict[str, tuple[Sequence[int], Sequence[float]]] = {
    "2 mixtures, 2 seeds": ([2, 2], [SD] * 2),
    "2 mixtures, 3 seeds": ([3, 3], [SD] * 2),
    "2 mixtures, 3 seeds, unequal": ([3, 3], [ORIGINAL, TABLE]),
    "2 mixtures, 5 seeds, unequal": ([5, 5], [TABLE, ORIGINAL]),
    "5 mixtures, 3 seeds": ([3] * 5, [SD] * 5),
    "9 mixtures, 3 seeds, unequal": ([3] * 9, [ORIGINAL] + [TABLE] * 8),
    "4 mixtures, 5, 3, 2 and 1 seeds": ([5, 3, 2, 1], [SD] * 4),
    "6 mixtures, 1 seed, baseline 5": ([5, 1, 1, 1, 1, 1], [SD] * 6),
}
"""Seeds and standard deviations of the mixtures; the first is the baseline."""


def study(
    means: Sequence[float], seeds: Sequence[int], sds: Sequence[float], draw: np.random.Generator
) -> list[ScoredRun]:
    """Return the runs of one simulated study; mixture 0 is the baseline."""
    return [
        ScoredRun(
            study="simulated",
            run=f"{arm} {seed}",
            fingerprint="",
            mixture=str(arm),
            student="simulated",
            seed=str(seed),
            decay_from=None,
            external=True,
            complete=True,
            parameters=None,
            tokens=None,
            mix_in=None,
            original=None,
            epochs=None,
            evaluation="",
            samples=None,
            curve={1: {"macro": draw.normal(mean, sd)}},
        )
        for arm, (mean, count, sd) in enumerate(zip(means, seeds, sds, strict=True))
        for seed in range(count)
    ]


def covers(verdict: Verdict, truth: float) -> bool:
    assert verdict.interval is not None
    return verdict.interval[0] <= truth <= verdict.interval[1]


def of_design(seeds: Sequence[int], sds: Sequence[float], draws: int, draw: np.random.Generator) -> dict[str, float]:
    """Return rates over simulated studies of one design: half of its mixtures differ from the baseline, half do not."""
    truths = [0.0 if arm % 2 or not arm else 3 * SD for arm in range(len(seeds))]
    missed = false = wrong_studies = equal = missing_studies = 0
    for _ in range(draws):
        verdicts = compare(study([BASE + truth for truth in truths], seeds, sds, draw), "0")
        inside = [covers(verdict, truth) for verdict, truth in zip(verdicts, truths[1:], strict=True)]
        called = [v.verdict in ("beats", "loses") for v, truth in zip(verdicts, truths[1:], strict=True) if not truth]
        missed += inside.count(False)
        missing_studies += not all(inside)
        false += sum(called)
        wrong_studies += any(called)
        equal += len(called)
    return {
        "coverage": round(1 - missed / draws / (len(seeds) - 1), 4),
        "coverage_of_all": round(1 - missing_studies / draws, 4),
        "false_per_comparison": round(false / equal, 4),
        "false_per_study": round(wrong_studies / draws, 4),
    }


def power(seeds: int, arms: int, draws: int, draw: np.random.Generator) -> float:
    """Return how often a mixture that is better by the visible difference beats the baseline."""
    difference = visible_difference(sd=SD, seeds=seeds, arms=arms)
    means = [BASE, BASE + difference, *[BASE] * (arms - 2)]
    found = (compare(study(means, [seeds] * arms, [SD] * arms, draw), "0")[0].verdict for _ in range(draws))
    return round(sum(word == "beats" for word in found) / draws, 4)


def promises(draws: int, draw: np.random.Generator) -> dict[str, float]:
    """Return how often `seeds_to_decide` is right, and how often it promises to be.

    From each undecided pair of mixtures a second study is drawn, with the seeds that it asks for, in which what the
    first one saw is true.
    """
    chances: list[float] = []
    decided = 0
    while len(chances) < draws:
        (first,) = compare(study([BASE, BASE + 3 * SD], [3, 3], [SD] * 2, draw), "0")
        if first.verdict != "undecided" or not first.decision or not first.noise or first.difference is None:
            continue
        seeds = [3 + first.decision.seeds] * 2
        sds = [variance**0.5 for variance in first.noise.variances]
        (second,) = compare(study([BASE, BASE + first.difference], seeds, sds, draw), "0")
        decided += second.verdict != "undecided"
        chances.append(first.decision.chance)
    return {"promised": round(float(np.mean(chances)), 4), "decided": round(decided / draws, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="simulated studies per design")
    draws = parser.parse_args().draws
    draw, started = np.random.default_rng(0), time.monotonic()
    result: dict[str, object] = {"draws": draws, "designs": {}, "power": {}}
    for name, (seeds, sds) in DESIGNS.items():
        rates = of_design(seeds, sds, draws, draw)
        print(f"{name}: {rates}", flush=True)
        result["designs"][name] = rates  # type: ignore[index]
    for count, arms in ((2, 2), (3, 2), (3, 5), (5, 9)):
        rate = power(count, arms, draws, draw)
        print(f"power with {count} seeds, {arms} mixtures: {rate} (promised {POWER})", flush=True)
        result["power"][f"{count} seeds, {arms} mixtures"] = rate  # type: ignore[index]
    result["seeds_to_decide"] = promises(draws, draw)
    print(f"seeds to decide: {result['seeds_to_decide']}", flush=True)
    print(json.dumps({**result, "promised_power": POWER, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
