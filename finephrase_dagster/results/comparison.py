"""The comparison of mixtures: which may be compared, how often a student saw its data, and what is only noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Variant = tuple[str, str, str | None]
"""Mixture, student, and the mixture whose run was decayed."""
Interval = tuple[float, float]
Z = 1.96
"""Standard errors that a difference has to exceed to be more than noise, 95 % of the time."""


def compared(
    rows: Sequence[Mapping[str, Any]],
    mixtures: Mapping[str, Mapping[str, Any]],
    intervals: Mapping[Variant, Sequence[Interval]] | None = None,
) -> list[dict[str, Any]]:
    """The leaderboard's rows with what is needed to read them.

    Args:
        rows: mixture, student, decay_from, seeds, macro and macro_sd each; best first.
        mixtures: the manifest of each mixture.
        intervals: of the macro score of each run, as its benchmark items give it, by mixture, student and variant.

    Returns:
        The rows, each with
        `macro_interval`, the mean of its runs' intervals: seeds share their items, so more of them do not narrow it;
        `epochs`, how often a student saw the component that it saw most often;
        `mix_in`, the original text in the mixture with its share: rows of one student with the same `mix_in`
        and budget differ in their synthetic part alone and may be compared with each other (`comparable`
        counts them, the row itself included);
        `noise`, the standard deviation of the student's macro score over seeds, pooled over all its mixtures
        (None where no mixture has two seeds);
        `behind`, how far the row is behind the best comparable one, and `within_noise`, whether that is less
        than seeds alone would give (None where the noise is not known).
    """
    found = [
        {**row, **_of_mixture(mixtures[row["mixture"]]), "macro_interval": _mean((intervals or {}).get(_variant(row)))}
        for row in rows
    ]
    noise = {student: pooled_noise(row for row in found if row["student"] == student) for student in _students(found)}
    for row in found:
        alike = [other for other in found if _group(other) == _group(row)]
        best = max(alike, key=lambda other: other["macro"] if other["macro"] is not None else -math.inf)
        behind = None if row["macro"] is None else best["macro"] - row["macro"]
        sd = noise[row["student"]]
        row |= {
            "comparable": len(alike),
            "noise": sd,
            "behind": behind,
            "within_noise": None
            if sd is None or behind is None
            else behind <= Z * sd * math.sqrt(1 / row["seeds"] + 1 / best["seeds"]),
        }
    return found


def pooled_noise(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """The standard deviation over seeds, pooled over mixtures by their degrees of freedom; None without any."""
    squares = freedom = 0.0
    for row in rows:
        if row["macro_sd"] is not None and row["seeds"] > 1:
            squares += (row["seeds"] - 1) * row["macro_sd"] ** 2
            freedom += row["seeds"] - 1
    return math.sqrt(squares / freedom) if freedom else None


def _of_mixture(manifest: Mapping[str, Any]) -> dict[str, Any]:
    original = {part["name"]: part["weight"] for part in manifest["components"] if "/" not in part["name"]}
    return {
        "epochs": max(part["epochs"] for part in manifest["components"]),
        "mix_in": {name: round(weight, 6) for name, weight in sorted(original.items())},
        "tokens": manifest["tokens"],
    }


def _variant(row: Mapping[str, Any]) -> Variant:
    return row["mixture"], row["student"], row["decay_from"]


def _mean(intervals: Sequence[Interval] | None) -> Interval | None:
    if not intervals:
        return None
    lows, highs = zip(*intervals, strict=True)
    return sum(lows) / len(lows), sum(highs) / len(highs)


def _group(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["student"], row["decay_from"], row["tokens"], tuple(row["mix_in"].items()))


def _students(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    return {row["student"] for row in rows}
