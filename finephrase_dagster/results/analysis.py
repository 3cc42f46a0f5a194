"""An analysis: what may be concluded from a leaderboard, as lines of text below its table.

Each analysis is one file in `results/analyses/`; `finephrase_dagster.results.analyses.analyses()` finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Question = Literal["baseline", "pairs", "exploration"]
"""What many comparisons are for: mixtures against one baseline, all pairs of mixtures, or a first look."""

LeaderboardRow = Mapping[str, Any]
"""The scores of one mixture, student and variant; see `leaderboard.compose_leaderboard`."""

EarlyStep = Mapping[str, Any]
"""How well the scores at one step predict the final ones; see `early.EarlyLook`."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A question that a leaderboard answers.

    Attributes:
        title: the heading, one sentence.
        lines: returns the answer from the leaderboard's rows and early steps; no lines if there is nothing to report.
    """

    title: str
    lines: Callable[[Sequence[LeaderboardRow], Sequence[EarlyStep]], list[str]]


def row_name(row: LeaderboardRow) -> str:
    """Return the name of a row: its mixture, with the mixture that the decay started from, if there is one."""
    return f"{row['mixture']} (decay of {row['decay_from']})" if row["decay_from"] else str(row["mixture"])


def between(interval: Sequence[float]) -> str:
    """Return the ends of an interval in words, with so many digits that none reads as 0."""
    digits = next((d for d in range(4, 8) if all(round(end, d) for end in interval if end)), 8)
    return " to ".join(f"{end:+.{digits}f}" for end in interval)


def verdict_words(verdict: Mapping[str, Any]) -> str:
    """Return what a comparison, as `Verdict.as_json` returns it, concludes; a pair with mismatches has no verdict."""
    return str(verdict["verdict"]) if verdict["matched"] else "not comparable"
