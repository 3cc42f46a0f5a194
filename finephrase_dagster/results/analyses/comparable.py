"""Which mixtures differ in their synthetic part alone, and the verdict on each against the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow, row_name


def comparable(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return one line per group of rows with the same student, budget and original text."""
    groups: dict[tuple[Any, ...], list[LeaderboardRow]] = {}
    for row in rows:
        if row.get("check"):
            continue
        mix_in = None if row["mix_in"] is None else tuple(row["mix_in"].items())
        groups.setdefault((row["student"], row["decay_from"], row["tokens"], mix_in), []).append(row)
    lines = []
    for (student, _, _, mix_in), group in groups.items():
        if len(group) > 1:
            shares = ", ".join(f"{100 * share:g} % {name}" for name, share in mix_in or ()) or "no original text"
            original = "mix-in unknown" if mix_in is None else shares
            lines.append(f"{student}, {original}: {', '.join(_verdict(row) for row in group)}")
    return lines


def _verdict(row: LeaderboardRow) -> str:
    if row["verdict"] is None or (row["verdict"] == "undecided" and row["noise"] is None):
        return row_name(row)
    chance = "" if row["p_best"] is None else f", {100 * row['p_best']:.0f} % best"
    return f"{row_name(row)} ({row['verdict']}{chance})"


ANALYSIS = Analysis(title="Comparable, because only their synthetic part differs:", lines=comparable)
