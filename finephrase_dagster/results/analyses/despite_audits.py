"""Analysis: which mixtures use datasets that failed their audit, and why."""

from collections.abc import Sequence

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow


def lines(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return the mixtures with the reasons that the study states."""
    reasons = {row["mixture"]: row["despite_audits"] for row in rows if row.get("despite_audits")}
    return [f"{mixture}: {reason}" for mixture, reason in reasons.items()]


ANALYSIS = Analysis(title="Mixtures that use datasets despite a failed audit:", lines=lines)
