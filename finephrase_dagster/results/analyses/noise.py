"""The noise of each student over random seeds: that of its best mixture."""

from finephrase_dagster.results.analysis import Analysis
from finephrase_dagster.results.figure import as_score

ANALYSIS = Analysis(
    title="Noise (standard deviation of the macro score over seeds):",
    lines=lambda rows, early: [
        f"{student}: {as_score(row['noise'])} ({row['noise_source']})"
        for student, row in {row["student"]: row for row in reversed(rows) if row["noise"] is not None}.items()
    ],
)
