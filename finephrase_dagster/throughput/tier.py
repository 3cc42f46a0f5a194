"""The outcome of a sweep: what each setting reached, which one is chosen and why, and what the sweep cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from finephrase_dagster.throughput.choice import Chosen, Spread, choose, interval, pooled_spread, typical
from finephrase_dagster.throughput.setting import Setting

Figures = Mapping[str, Any]
TIMES = ("start_seconds", "warmup_seconds", "measured_seconds")
SHARES = ("prefix_cache_hit_rate", "speculation_acceptance")


class TierOutcome(NamedTuple):
    """The setting that a tier chose, and all that the tier found, as JSON."""

    chosen: Setting
    found: dict[str, Any]


def speed(figures: Figures) -> float:
    """Return the output tokens per second and GPU of a measurement."""
    return figures["steady"]["tokens_per_second"] / max(1, figures["gpus"])


def tier_outcome(
    base: Setting, runs: Mapping[Setting, Sequence[Figures]], confidence: float, replicates: int
) -> TierOutcome | None:
    """Return the outcome of a tier; None if every setting failed.

    Args:
        base: the setting that the tier started from.
        replicates: runs of the settings that were left at the end, among which one is chosen.
    """
    speeds = {
        setting: [speed(one) for one in measured]
        for setting, measured in runs.items()
        if not any("failure" in one for one in measured)
    }
    last = {setting: values for setting, values in speeds.items() if len(values) >= replicates}
    if not last:
        return None
    spread = pooled_spread(speeds.values())

    def complexity(setting: Setting) -> int:
        changed = {axis for axis, _ in set(setting.changes) ^ set(base.changes)}
        return len(changed) + (setting.concurrency != base.concurrency)

    choice = choose(last, spread, confidence, complexity)
    rows = [_row(setting, measured, speeds.get(setting), spread, confidence) for setting, measured in runs.items()]
    for row, setting in zip(rows, runs, strict=True):
        row["chosen"] = setting == choice.chosen
    found = {
        "default": base.name,
        "chosen": choice.chosen.name,
        "why": _why(choice, base, len(last), len(speeds), spread, confidence),
        "spread": round(spread.sd, 5),
        "degrees_of_freedom": spread.freedom,
        "settings": rows,
    }
    return TierOutcome(choice.chosen, found)


def _row(
    setting: Setting, measured: Sequence[Figures], speeds: Sequence[float] | None, spread: Spread, confidence: float
) -> dict[str, Any]:
    """Return what a setting reached; its figures are null if it failed."""
    bounds = interval(speeds, spread, confidence) if speeds else None
    steady = [one["steady"] for one in measured if "steady" in one]

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(fmean(known), 4) if known else None

    return {
        "name": setting.name,
        "changes": dict(setting.changes),
        "concurrency": setting.concurrency,
        "runs": len(measured),
        "tokens_per_second": round(typical(speeds), 1) if speeds else None,
        "low": round(bounds[0], 1) if bounds else None,
        "high": round(bounds[1], 1) if bounds else None,
        "measured": [round(one, 1) for one in speeds or ()],
        **{name: mean(one.get(name) for one in measured) for name in TIMES},
        **{name: mean(one[name] for one in steady) for name in SHARES},
        "failure": next((one["failure"] for one in measured if "failure" in one), None),
    }


def _why(
    choice: Chosen[Setting], base: Setting, compared: int, measured: int, spread: Spread, confidence: float
) -> str:
    """Return in one sentence why a setting was chosen."""
    noise = f"the noise (runs of one setting differ by {spread.sd:.1%}, confidence {confidence:.0%})"
    if compared == 1 < measured:
        return f"{choice.chosen.name} was faster than every other setting in its first runs, so it is kept"
    if compared == 1:
        return f"{choice.chosen.name} is the only setting that could be measured"
    if choice.chosen == base:
        return f"no setting is faster than {base.name} by more than {noise}, so it is kept"
    if choice.chosen == choice.fastest:
        return f"{choice.chosen.name} is faster than {base.name} by more than {noise}"
    return (
        f"{choice.chosen.name} is the simplest of {len(choice.ties)} settings that cannot be told apart; "
        f"{choice.fastest.name} is not faster by more than {noise}"
    )


def cost(
    runs: Mapping[Setting, Sequence[Figures]], replicates: int, gpu_hour_dollars: float | None
) -> dict[str, dict[str, Any]]:
    """Return what all measurements of a sweep cost, what the full grid would have cost, and the difference.

    The full grid measures every setting `replicates` times; a setting that fails is tried once in both. What a setting
    takes per run is the mean of its own runs.
    """
    spent, full = [], []
    for measured in runs.values():
        failed = any("failure" in one for one in measured)
        times = len(measured) if failed else max(replicates, len(measured))
        seconds, gpus = fmean(one["seconds"] for one in measured), measured[0]["gpus"]
        spent.append((len(measured), len(measured) * seconds, gpus))
        full.append((times, times * seconds, gpus))

    def total(some: Sequence[tuple[int, float, int]]) -> dict[str, Any]:
        gpu_hours = sum(seconds * gpus for _, seconds, gpus in some) / 3600
        dollars = None if gpu_hour_dollars is None or not gpu_hours else gpu_hours * gpu_hour_dollars
        return {
            "measurements": sum(count for count, _, _ in some),
            "seconds": round(sum(seconds for _, seconds, _ in some), 1),
            "gpu_hours": round(gpu_hours, 4),
            "dollars": None if dollars is None else round(dollars, 2),
        }

    both = {"spent": total(spent), "full_grid": total(full)}
    saved = {
        name: None if value is None else round(value - both["spent"][name], 4)
        for name, value in both["full_grid"].items()
    }
    return {**both, "saved": saved}
