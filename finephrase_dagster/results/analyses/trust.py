"""Whether the study can be trusted: what its A/A pairs and negative controls show."""

from __future__ import annotations

from collections.abc import Sequence

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow


def trust(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return one sentence per arm that checks the study."""
    return [row["check"]["text"] for row in rows if row.get("check")]


ANALYSIS = Analysis(title="Can this study be trusted?", lines=trust)
