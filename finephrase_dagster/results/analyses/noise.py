"""The noise of each student over random seeds: that of its best mixture."""

from finephrase_dagster.results.analysis import Analysis

ANALYSIS = Analysis(
    title="Noise (standard deviation of the macro score over seeds):",
    lines=lambda rows, early: [
        f"{student}: {row['noise']:.4f} ({row['noise_source']})"
        for student, row in {row["student"]: row for row in reversed(rows) if row["noise"] is not None}.items()
    ],
)
