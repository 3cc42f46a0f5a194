"""What a student is compared by: a score's name, its measure, and the checkpoints that it is averaged over.

A score is written `NAME`, `NAME/bits_per_byte`, `NAME/last5` or `NAME/bits_per_byte/last5`, where NAME is a task, a
category, `macro`, `micro` or `held_out`. This is the form of commands, of the warehouse and of Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

BITS = "bits_per_byte"
LAST = 5
"""How many checkpoints the second estimate of a score averages."""
LAST_NAME = f"last{LAST}"
MEANS = ("macro", "micro", "held_out")

Curve = Mapping[int, Mapping[str, float]]
"""Scores by step and name. What is missing is absent, never 0."""


@dataclass(frozen=True)
class Metric:
    """One score of a student.

    Attributes:
        name: a task, a category, `macro`, `micro` or `held_out`.
        bits: bits per byte of the correct answers, of which fewer are better, instead of `prob_norm_token`.
        averaged: the mean over the last five checkpoints that were evaluated, instead of the last one alone.
    """

    name: str
    bits: bool = False
    averaged: bool = False

    @classmethod
    def read(cls, text: str) -> Metric:
        """Return the score that a text names; the parts after `/` may have any order, and the name may be left out."""
        forms, rest = (f"/{BITS}", f"/{LAST_NAME}"), f"/{text}"
        name = rest.replace(forms[0], "").replace(forms[1], "")[1:]
        return cls(name or "macro", bits=forms[0] in rest, averaged=forms[1] in rest)

    def __str__(self) -> str:
        return "/".join((self.name, *[BITS] * self.bits, *[LAST_NAME] * self.averaged))

    @property
    def sign(self) -> int:
        """1 if more is better, -1 if less is better."""
        return -1 if self.bits else 1

    @property
    def words(self) -> str:
        """The measure and the estimate for a reader."""
        measure = (
            "bits per byte of the answers (less is better)" if self.bits else "probability per token of the answers"
        )
        return f"{measure}, mean of the last {LAST} checkpoints" if self.averaged else f"{measure}, last checkpoint"

    def of(self, name: str) -> str:
        """Return the name of another score with the same measure and estimate."""
        return str(Metric(name, self.bits, self.averaged))


FORMS = tuple(Metric("macro", bits, averaged) for bits in (False, True) for averaged in (False, True))
"""Each measure with each estimate."""


def point_scores(point: Mapping[str, Any]) -> dict[str, float]:
    """Return all scores of a point of a manifest's curve by name, without those over several checkpoints."""
    means = {name: point[name] for name in MEANS if point.get(name) is not None}
    scores = {**point.get("tasks", {}), **point.get("categories", {}), **means}
    bits = point_scores(point[BITS]) if point.get(BITS) else {}
    return {**scores, **{f"{name}/{BITS}": value for name, value in bits.items()}}


def final_scores(curve: Curve) -> dict[str, float]:
    """Return the scores at the last step by name; with five steps or more, also their means over the last five."""
    steps: Sequence[int] = sorted(curve)[-LAST:]
    if not steps:
        return {}
    final = dict(curve[steps[-1]])
    if len(steps) == LAST:
        final |= {
            f"{name}/{LAST_NAME}": fmean(curve[step][name] for step in steps)
            for name in curve[steps[-1]]
            if all(name in curve[step] for step in steps)
        }
    return final
