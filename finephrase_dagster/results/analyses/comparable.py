"""Which mixtures differ in their synthetic part alone, and which of them lie within the noise of the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow, row_name


def comparable(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return one line per group of rows with the same student, budget and original text."""
    groups: dict[tuple[Any, ...], list[LeaderboardRow]] = {}
    for row in rows:
        mix_in = tuple(row["mix_in"].items())
        groups.setdefault((row["student"], row["decay_from"], row["tokens"], mix_in), []).append(row)
    lines = []
    for (student, _, _, mix_in), group in groups.items():
        if len(group) > 1:
            original = ", ".join(f"{100 * share:g} % {name}" for name, share in mix_in) or "no original text"
            lines.append(f"{student}, {original}: {', '.join(_verdict(row) for row in group)}")
    return lines


def _verdict(row: LeaderboardRow) -> str:
    if row["within_noise"] is None or not row["behind"]:
        return row_name(row)
    return f"{row_name(row)} ({'within noise' if row['within_noise'] else 'behind'})"


ANALYSIS = Analysis(title="Comparable, because only their synthetic part differs:", lines=comparable)
