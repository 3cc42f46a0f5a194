"""Compare mixtures: which are comparable, how often a student saw its data, and which differences are noise."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Variant = tuple[str, str, str | None]
"""Mixture, student, and the mixture of the run that a decay variant continues from."""
Interval = tuple[float, float]
Z = 1.96
"""A difference of fewer standard errors counts as noise (95 % confidence)."""


def compared(
    rows: Sequence[Mapping[str, Any]],
    mixtures: Mapping[str, Mapping[str, Any]],
    corpora: Collection[str],
    intervals: Mapping[Variant, Sequence[Interval]] | None = None,
) -> list[dict[str, Any]]:
    """Return the leaderboard's rows with the figures that are needed to interpret them.

    Args:
        rows: rows with mixture, student, decay_from, seeds, macro and macro_sd, best first.
        mixtures: the manifest of each mixture.
        corpora: the names of the components that are original text.
        intervals: the interval of each run's macro score over benchmark items, by mixture, student and variant.

    Returns:
        The rows, each with these additional fields:
        `macro_interval`: mean of its runs' intervals. All seeds share the items, so more seeds do not narrow it.
        `epochs`: how often a student saw the component that was repeated most.
        `mix_in`: the original texts in the mixture with their shares. Rows of one student with equal `mix_in` and
        budget differ only in their synthetic part, so they are comparable.
        `comparable`: the number of comparable rows, including the row itself.
        `noise`: standard deviation of the student's macro score over seeds, pooled over all its mixtures; None if no
        mixture has two seeds.
        `behind`: difference to the best comparable row.
        `within_noise`: whether seeds alone explain that difference; None if the noise is unknown.
    """
    annotated = [
        {
            **row,
            **_of_mixture(mixtures[row["mixture"]], corpora),
            "macro_interval": _mean((intervals or {}).get(_variant(row))),
        }
        for row in rows
    ]
    noise = {
        student: pooled_noise(row for row in annotated if row["student"] == student) for student in _students(annotated)
    }
    for row in annotated:
        alike = [other for other in annotated if _group(other) == _group(row)]
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
    return annotated


def pooled_noise(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the standard deviation over seeds, pooled over mixtures by degrees of freedom; None if there are none."""
    squares = freedom = 0.0
    for row in rows:
        if row["macro_sd"] is not None and row["seeds"] > 1:
            squares += (row["seeds"] - 1) * row["macro_sd"] ** 2
            freedom += row["seeds"] - 1
    return math.sqrt(squares / freedom) if freedom else None


def _of_mixture(manifest: Mapping[str, Any], corpora: Collection[str]) -> dict[str, Any]:
    original = {part["name"]: part["weight"] for part in manifest["components"] if part["name"] in corpora}
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
