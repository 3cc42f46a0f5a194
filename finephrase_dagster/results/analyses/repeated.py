"""The mixtures whose students saw some of their text many times."""

from finephrase_dagster.results.analysis import Analysis, row_name
from finephrase_dagster.study.student import MANY_EPOCHS

ANALYSIS = Analysis(
    title=f"Trained for more than {MANY_EPOCHS} epochs on some of their text:",
    lines=lambda rows, early: [
        f"{row_name(row)}: {row['epochs']:.1f} epochs" for row in rows if (row["epochs"] or 0) > MANY_EPOCHS
    ],
)
