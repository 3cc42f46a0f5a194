"""Successive halving: settings that are clearly slow are measured once, the fast ones often."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

S = TypeVar("S", bound=Hashable)
Runs = Mapping[S, Sequence[float]]


def better_half(runs: Runs[S], *, always: S) -> list[S]:
    """Return the half of the settings with the highest mean, in the given order, and `always` in any case.

    Args:
        runs: the measured values by setting, at least one each.
        always: the setting that the others are compared with.
    """
    ranked = sorted(runs, key=lambda setting: -fmean(runs[setting]))
    kept = {*ranked[: -(-len(ranked) // 2)], always}
    return [setting for setting in runs if setting in kept]


def halve(
    settings: Iterable[S], replicates: Sequence[int], measure: Callable[[S, int], float | None], *, always: S
) -> Iterator[tuple[int, dict[S, list[float]]]]:
    """Measure settings in rungs, and yield after each rung its number of replicates and all runs of its settings.

    The rungs have `replicates` runs per setting in all; between them, the better half of the settings remains. A rung
    measures every setting once before any of them again, so that a slow drift of the machine concerns all.

    Args:
        settings: in the order in which they are measured.
        replicates: numbers of runs per setting, growing.
        measure: returns a value, higher is better, for a setting and the number of the run; None if it failed, which
            removes the setting.
        always: the setting that remains in every rung, unless it fails.
    """
    runs: dict[S, list[float]] = {setting: [] for setting in settings}
    done = 0
    for most in replicates:
        if done:
            runs = {setting: runs[setting] for setting in better_half(runs, always=always)}
        for number in range(done, most):
            for setting in list(runs):
                value = measure(setting, number)
                if value is None:
                    del runs[setting]
                else:
                    runs[setting].append(value)
        done = most
        if not runs:
            return
        yield most, {setting: list(values) for setting, values in runs.items()}
