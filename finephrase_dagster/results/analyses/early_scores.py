"""How well the scores before the end of training predict the final ones."""

from __future__ import annotations

from collections.abc import Sequence

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow


def early_scores(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return one line per step at which students were evaluated before their end."""
    lines = []
    for step in early:
        correlation = "-" if step["rank_correlation"] is None else f"{step['rank_correlation']:.2f}"
        losses = ", ".join(f"best {100 * float(part):g} %: {loss:.4f}" for part, loss in step["regret"].items())
        lines.append(f"step {step['step']}: {'; '.join(filter(None, (correlation, losses)))}")
    return lines


ANALYSIS = Analysis(
    title="Rank correlation of early with final macro scores; score lost if only the best part had continued:",
    lines=early_scores,
)
