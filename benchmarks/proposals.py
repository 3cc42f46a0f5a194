"""Do proposals find the best mixture sooner than chance or a grid? A replay of the published sweeps of shares.

Each replay begins with three random mixtures of a sweep. Then a strategy reveals one more mixture at a time, with its
scores at all steps, and its regret is how far the best score revealed so far lies below the best of the sweep. Sweeps:
each of four formats mixed with FineWeb-Edu-HQ in nine shares, and all four together. A grid goes through the shares
from low to high. The ratio of regrets is that of their sums after 1, 2, ... proposals.

    python benchmarks/proposals.py [--published ../shared/published] [--starts 100] [--proposals 8]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the matrices are small

import numpy as np

from finephrase_dagster.results.evidence import Entry, Evidence, read_evidence
from finephrase_dagster.results.external import import_study
from finephrase_dagster.results.proposals import propose
from finephrase_dagster.results.warehouse import reading

BASE, FORMATS = "fw_edu_hq", ("table", "math", "faq", "tutorial")
Strategy = Callable[[list[int]], int]
"""Returns the mixture to reveal next, given those that are revealed."""


def regrets(scores: Sequence[float], start: Sequence[int], proposals: int, strategy: Strategy) -> list[float]:
    """Return the regret before the first proposal and after each."""
    known, best = list(start), max(scores)
    found = [best - max(scores[index] for index in known)]
    for _ in range(proposals):
        known.append(strategy(known))
        found.append(best - max(scores[index] for index in known))
    return found


def by_surrogate(evidence: Evidence, entries: Sequence[Entry]) -> Strategy:
    """Return the strategy that trains the first proposal."""

    def choose(known: list[int]) -> int:
        seen = sorted((entries[index] for index in known), key=lambda entry: -entry.macro)
        rest = {str(index): entry.components for index, entry in enumerate(entries) if index not in known}
        part = replace(evidence, entries=tuple(seen), unfinished=(), verdicts=())
        return int(propose(part, count=1, candidates=rest).proposals[0].name)

    return choose


def in_order(order: Sequence[int]) -> Strategy:
    """Return the strategy that takes the next mixture of an order."""
    return lambda known: next(index for index in order if index not in known)


def replay(evidence: Evidence, entries: Sequence[Entry], starts: int, proposals: int) -> dict[str, Any]:
    """Return the mean regrets of each strategy over random starts."""
    scores = [entry.macro for entry in entries]
    draw = np.random.default_rng(0)
    grid = sorted(range(len(entries)), key=lambda index: (1 - entries[index].components.get(BASE, 0), index))
    proposals = min(proposals, len(entries) - 3)
    found: dict[str, list[list[float]]] = {"proposals": [], "random": [], "grid": []}
    for _ in range(starts):
        order = [int(index) for index in draw.permutation(len(entries))]
        for name, strategy in (
            ("proposals", by_surrogate(evidence, entries)),
            ("random", in_order(order)),
            ("grid", in_order(grid)),
        ):
            found[name].append(regrets(scores, order[:3], proposals, strategy))
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    sums = {name: float(values[1:].sum()) for name, values in means.items()}
    return {
        "mixtures": len(entries),
        "regret": {name: [round(float(value), 5) for value in values] for name, values in means.items()},
        "ratio_to_random": round(sums["proposals"] / sums["random"], 3),
        "ratio_to_grid": round(sums["proposals"] / sums["grid"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, default=Path("../shared/published"), help="folder of the files")
    parser.add_argument("--starts", type=int, default=100, help="random starts per sweep")
    parser.add_argument("--proposals", type=int, default=8, help="proposals per start")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Path(folder) / "warehouse.duckdb"
        import_study(warehouse, "published", {"scores": options.published / "benchmark-results.csv"})
        with reading(warehouse) as connection:
            evidence = read_evidence(connection, "published", student="1.7b")
    names = {f"{one}_smollm2_1.7b_hq": one for one in FORMATS}
    allowed = {BASE, *names}
    every: dict[str, Entry] = {}  # each mixture once, since some were trained under two names
    for one in sorted(evidence.entries, key=lambda entry: len(entry.runs)):
        if BASE in one.components and set(one.components) <= allowed and len(one.components) <= 2:
            every[str(sorted(one.components.items()))] = one
    sweeps = {names[name]: [one for one in every.values() if {name} >= set(one.components) - {BASE}] for name in names}
    result: dict[str, Any] = {}
    started = time.process_time()
    for name, entries in {**sweeps, "all four": list(every.values())}.items():
        result[name] = replay(evidence, entries, options.starts, options.proposals)
        print(f"{name}: {result[name]}", flush=True)
    ratios = {
        f"ratio_to_{other}": round(
            sum(sum(one["regret"]["proposals"][1:]) for one in result.values())
            / sum(sum(one["regret"][other][1:]) for one in result.values()),
            3,
        )
        for other in ("random", "grid")
    }
    seconds = round(time.process_time() - started, 1)
    print(json.dumps({"sweeps": result, "starts": options.starts, **ratios, "cpu_seconds": seconds}))


if __name__ == "__main__":
    main()
