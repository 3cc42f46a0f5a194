"""The noise of each student over random seeds."""

from finephrase_dagster.results.analysis import Analysis

ANALYSIS = Analysis(
    title="Noise (standard deviation of the macro score over seeds):",
    lines=lambda rows, early: [
        f"{student}: {noise:.4f}"
        for student, noise in {row["student"]: row["noise"] for row in rows if row["noise"] is not None}.items()
    ],
)
