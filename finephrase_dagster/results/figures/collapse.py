"""How many different beginnings the completions of a dataset have."""

from __future__ import annotations

from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import WIDTH, Figure, Rows, alt

MOST = 5  # datasets with a curve, those that begin alike most; the others are in the data
PUBLISHED = (
    {"dataset": "published: Qwen3-1.7B, math", "length": 10, "distinct": 40, "most_common": 7_619, "rows": 10_000},
    {"dataset": "published: SmolLM2-1.7B, math", "length": 10, "distinct": 1_897, "most_common": 3_235, "rows": 10_000},
)
"""The study's two measurements of template collapse ("The Synthetic Data Playbook", 2026)."""


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the share of different beginnings by length, of audited datasets and the published two."""
    own: list[dict[str, Any]] = [
        {
            "dataset": f"{dataset.generator} on {dataset.source}: {dataset.prompt}",
            "length": point["length"],
            "distinct": point["distinct"],
            "most_common": point["most_common"],
            "rows": dataset.rows,
        }
        for dataset in evidence.datasets
        for point in dataset.collapse
        if dataset.rows
    ]
    return [{**row, "distinct_share": row["distinct"] / row["rows"]} for row in [*own, *PUBLISHED]] if own else []


def caption(rows: Rows) -> str:
    """Name the dataset with the fewest different beginnings."""
    own = [row for row in rows if not row["dataset"].startswith("published") and row["length"] == 10]
    worst = min(own or rows, key=lambda row: row["distinct_share"])
    return (
        f"Fewest different beginnings at {worst['length']} characters: {worst['dataset']}, {worst['distinct']:,} among "
        f"{worst['rows']:,} completions ({worst['distinct_share']:.1%}). A large dataset has a smaller share by "
        f"nature. Drawn are the {MOST} datasets with the fewest; the two points are the published 10,000 completions "
        "of a collapsed and a varied generator."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a curve per dataset, and the published points."""
    own = [row for row in rows if not row["dataset"].startswith("published")]
    early = sorted(own, key=lambda row: (abs(row["length"] - 10), row["distinct_share"]))
    names = list(dict.fromkeys(row["dataset"] for row in early))[:MOST]
    x = alt.X("length:Q", title="characters from the beginning")
    y = alt.Y("distinct_share:Q", title="different beginnings / completions", axis=alt.Axis(format="%"))
    color = alt.Color("dataset:N", title=None, legend=alt.Legend(orient="bottom", columns=1))
    lines = alt.Chart(alt.Data(values=[row for row in rows if row["dataset"] in names])).mark_line(strokeWidth=1.5)
    points = alt.Chart(alt.Data(values=[row for row in rows if row["dataset"].startswith("published")])).mark_point(
        size=80, filled=True, opacity=1
    )
    return (lines.encode(x=x, y=y, color=color) + points.encode(x=x, y=y, color=color)).properties(
        width=WIDTH - 40, height=260
    )


FIGURE = Figure(
    order=110,
    title="Template collapse",
    question="Do the completions all begin alike?",
    columns={
        "dataset": "dataset",
        "length": "characters",
        "distinct": "different beginnings",
        "most_common": "completions with the most common one",
        "rows": "completions",
        "distinct_share": "different beginnings / completions",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
