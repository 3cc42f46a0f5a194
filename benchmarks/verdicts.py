"""Are verdicts right as often as they promise? Simulated studies whose truth is known, with the published noise.

Each study has a baseline and mixtures that differ by a known amount; students differ by seeds as the published ones do.
Counted: false "beats" and "loses" per comparison and per study, intervals that miss the truth, studies that find the
difference that `visible_difference` promises, and pairs of equal mixtures that are called different. First the noise
rule and the bounds alone are tried on many studies at once, then all of `compare`, then the commands: studies are
written as CSV files in the published form, taken in by `results import`, and judged by `results compare`.

    python benchmarks/verdicts.py [--rule-draws 100000] [--draws 2000] [--command-draws 300] [--pairs 1000]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from typer.testing import CliRunner

from finephrase_dagster.commands.main import app
from finephrase_dagster.evaluate.categories import counted_tasks
from finephrase_dagster.results.decision import POWER, bounds_of, visible_difference
from finephrase_dagster.results.multiplicity import loading
from finephrase_dagster.results.noise import PUBLISHED_FREEDOM, moderated, published_spread
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
    "3 mixtures, 3 seeds, unequal": ([3] * 3, [ORIGINAL] + [TABLE] * 2),
    "5 mixtures, 3 seeds": ([3] * 5, [SD] * 5),
    "5 mixtures, 3 seeds, unequal": ([3] * 5, [ORIGINAL] + [TABLE] * 4),
    "5 mixtures, 5 seeds": ([5] * 5, [SD] * 5),
    "2 mixtures, 5 and 2 seeds": ([5, 2], [SD] * 2),
    "2 mixtures, 5 and 2 seeds, the 2 noisier": ([5, 2], [TABLE, ORIGINAL]),
    "2 mixtures, 2 and 5 seeds, the 2 noisier": ([2, 5], [ORIGINAL, TABLE]),
    "2 mixtures, 9 and 3 seeds, the 3 noisier": ([9, 3], [TABLE, ORIGINAL]),
    "9 mixtures, 3 seeds": ([3] * 9, [SD] * 9),
    "9 mixtures, 3 seeds, unequal": ([3] * 9, [ORIGINAL] + [TABLE] * 8),
    "9 mixtures, 2 seeds": ([2] * 9, [SD] * 9),
    "9 mixtures, 2 seeds, unequal": ([2] * 9, [ORIGINAL] + [TABLE] * 8),
    "20 mixtures, 3 seeds": ([3] * 20, [SD] * 20),
    "20 mixtures, 3 seeds, unequal": ([3] * 20, [ORIGINAL] + [TABLE] * 19),
    "20 mixtures, 5 seeds, every second noisier": ([5] * 20, [TABLE, ORIGINAL] * 10),
    "20 mixtures, 1 seed": ([1] * 20, [SD] * 20),
    "4 mixtures, 5, 3, 2 and 1 seeds": ([5, 3, 2, 1], [SD] * 4),
    "4 mixtures, 5, 3, 2 and 1 seeds, unequal": ([5, 3, 2, 1], [TABLE, ORIGINAL, ORIGINAL, TABLE]),
    "5 mixtures, 9, 3, 3, 2 and 2 seeds, unequal": ([9, 3, 3, 2, 2], [TABLE, ORIGINAL, TABLE, ORIGINAL, TABLE]),
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
            student="1.7b",  # whose published spread is the noise of mixtures with one seed
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


def of_rule(seeds: Sequence[int], sds: Sequence[float], draws: int, draw: np.random.Generator) -> dict[str, float]:
    """Return rates over studies without any true difference, of the noise rule and the bounds alone."""
    counts, true = np.array(seeds), np.array(sds)
    freedoms = counts - 1
    means = draw.normal(0, (true / counts**0.5)[:, None], (len(seeds), draws))
    scales = [draw.chisquare(freedom, draws) / freedom if freedom else np.zeros(draws) for freedom in freedoms]
    variances = true[:, None] ** 2 * np.array(scales)
    sums = freedoms[:, None] * variances
    replicated = bool(freedoms.sum())
    family = (tuple(round(loading((seeds[0], count), estimated=replicated), 2) for count in seeds[1:]),)
    beaten, missed = [], []
    for arm in range(1, len(seeds)):
        others = int(freedoms.sum() - freedoms[0] - freedoms[arm])
        rest = (sums.sum(axis=0) - sums[0] - sums[arm]) / max(1, others)
        estimated, degrees = (SD**2, SD**2), float(PUBLISHED_FREEDOM)
        if replicated:
            estimated, degrees = moderated((variances[0], variances[arm]), (seeds[0], seeds[arm]), (others, rest))
        error = np.sqrt(estimated[0] / seeds[0] + estimated[1] / seeds[arm])
        bounds = bounds_of(np.broadcast_to(degrees, (draws,)), family)
        missed.append(np.abs(means[arm] - means[0]) > bounds * error)
        beaten.append(means[arm] - means[0] > bounds * error)
    return {
        "coverage_of_all": round(1 - float(np.any(missed, axis=0).mean()), 4),
        "false_beats_per_study": round(float(np.any(beaten, axis=0).mean()), 4),
        "false_per_comparison": round(float(np.mean(missed)), 4),
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


COMMANDS = CliRunner()


def compared(runs: Iterable[ScoredRun], folder: Path) -> list[dict[str, Any]]:
    """Return what `results compare --json` prints for simulated runs that `results import` took in."""
    rows = [
        {
            "runname": f"arm{run.mixture}-seed-{1 + int(run.seed or 0)}",
            "seed": 1 + int(run.seed or 0),
            "steps": 10_000,
            **{f"lighteval|{task}|3/prob_norm_token": run.scores["macro"] for task in counted_tasks()},
        }
        for run in runs
    ]
    path = folder / "scores.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    os.environ["FINEPHRASE_DATA"] = str(folder / "data")
    for words in (
        ["import", "--scores", str(path), "--name", "simulated"],
        ["compare", "--name", "simulated", "--baseline", "arm0", "--json"],
    ):
        answer = COMMANDS.invoke(app, ["results", *words])
        assert answer.exit_code == 0, answer.output
    comparisons = json.loads(answer.stdout)["comparisons"]
    return sorted(comparisons, key=lambda row: row["mixture"])


def by_command(
    seeds: Sequence[int], sds: Sequence[float], gains: Sequence[float], draws: int, draw: np.random.Generator
) -> dict[str, float | None]:
    """Return rates over studies that go through the commands, given the true gain of each mixture on the baseline."""
    missed = false = wrong = found = 0
    for number in range(draws):
        if number % 50 == 0:  # a new warehouse, since a large one is slow to copy
            folder = TemporaryDirectory()
        runs = study([BASE, *(BASE + gain for gain in gains)], seeds, sds, draw)
        rows = compared(runs, Path(folder.name))
        missed += any(
            not row["interval"][0] <= gain <= row["interval"][1] for row, gain in zip(rows, gains, strict=True)
        )
        called = [row["verdict"] in ("beats", "loses") for row, gain in zip(rows, gains, strict=True) if not gain]
        false, wrong = false + sum(called), wrong + any(called)
        found += sum(row["verdict"] == "beats" for row, gain in zip(rows, gains, strict=True) if gain)
    equal, better = sum(not gain for gain in gains), sum(map(bool, gains))
    return {
        "coverage_of_all": round(1 - missed / draws, 4),
        "false_per_comparison": round(false / draws / equal, 4) if equal else None,
        "false_per_study": round(wrong / draws, 4),
        "power": round(found / draws / better, 4) if better else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule-draws", type=int, default=100_000, help="studies per design for the noise rule alone")
    parser.add_argument("--draws", type=int, default=2000, help="simulated studies per design")
    parser.add_argument("--command-draws", type=int, default=300, help="studies per design through the commands")
    parser.add_argument("--pairs", type=int, default=1000, help="A/A pairs through the commands")
    arguments = parser.parse_args()
    draws = arguments.draws
    draw, started = np.random.default_rng(0), time.monotonic()
    result: dict[str, object] = {"draws": draws, "rule": {}, "designs": {}, "power": {}, "commands": {}}
    for name, (seeds, sds) in DESIGNS.items():
        rates = of_rule(seeds, sds, arguments.rule_draws, draw)
        print(f"rule alone, {name}: {rates}", flush=True)
        result["rule"][name] = rates  # type: ignore[index]
    for name, (seeds, sds) in DESIGNS.items() if draws else ():
        rates = of_design(seeds, sds, draws, draw)
        print(f"{name}: {rates}", flush=True)
        result["designs"][name] = rates  # type: ignore[index]
    for count, arms in ((2, 2), (3, 2), (3, 5), (5, 9)) if draws else ():
        rate = power(count, arms, draws, draw)
        print(f"power with {count} seeds, {arms} mixtures: {rate} (promised {POWER})", flush=True)
        result["power"][f"{count} seeds, {arms} mixtures"] = rate  # type: ignore[index]
    if draws:
        result["seeds_to_decide"] = promises(draws, draw)
        print(f"seeds to decide: {result['seeds_to_decide']}", flush=True)
    seen = [visible_difference(sd=SD, seeds=seeds, arms=arms) for seeds, arms in ((3, 4), (2, 4))]
    for name, some, design in (
        ("A/A pairs, 3 seeds", arguments.pairs, ([3, 3], [SD] * 2, [0.0])),
        ("4 mixtures, 3 seeds", arguments.command_draws, ([3] * 4, [SD] * 4, [0.0, 0.0, seen[0]])),
        ("4 mixtures, 2 seeds", arguments.command_draws, ([2] * 4, [SD] * 4, [0.0, 0.0, seen[1]])),
        ("2 mixtures, 2 and 5 seeds, the 2 noisier", arguments.command_draws, ([2, 5], [ORIGINAL, TABLE], [0.0])),
    ):
        if not some:
            continue
        judged = by_command(*design, some, draw)
        print(f"by the commands, {name}: {judged}", flush=True)
        result["commands"][name] = judged  # type: ignore[index]
    print(json.dumps({**result, "promised_power": POWER, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
