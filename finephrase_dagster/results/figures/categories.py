"""What a mixture gains and loses by category, against the baseline."""

from __future__ import annotations

from typing import Any

from finephrase_dagster.evaluate.benchmark import CATEGORIES
from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import DIVERGING, WIDTH, Figure, Rows, alt, cell_words

SHOWN = 15


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the difference of each category score to the baseline's, of the best mixtures."""
    baseline = evidence.baseline
    return [
        {
            "mixture": entry.mixture,
            "category": CATEGORIES[name],
            "score": entry.scores[name],
            "difference": entry.scores[name] - baseline.scores[name],
        }
        for entry in evidence.entries[:SHOWN]
        if entry is not baseline
        for name in CATEGORIES
        if name in entry.scores and name in baseline.scores
    ]


def caption(rows: Rows) -> str:
    """Say where the best mixture gains most and where it loses."""
    best = [row for row in rows if row["mixture"] == rows[0]["mixture"]]
    most = max(best, key=lambda row: row["difference"])
    lost = [row for row in best if row["difference"] < 0]
    losses = ", ".join(f"{row['category']} ({row['difference']:+.4f})" for row in lost)
    return (
        f"Against the baseline, {most['mixture']} gains most in {most['category']} ({most['difference']:+.4f}) and "
        f"{'loses in ' + losses if lost else 'loses in no category'}."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a grid of mixtures and categories."""
    limit = max(abs(row["difference"]) for row in rows) or 1.0
    edges = [limit * edge for edge in (-0.6, -0.3, -0.08, 0.08, 0.3, 0.6)]
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X(
            "category:N",
            title=None,
            sort=list(CATEGORIES.values()),
            axis=alt.Axis(labelAngle=0, orient="top", labelPadding=20, labelExpr="split(datum.label, ' ')"),
        ),
        y=alt.Y("mixture:N", title=None, sort=list(dict.fromkeys(row["mixture"] for row in rows))),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "difference:Q",
            legend=None,
            scale=alt.Scale(type="threshold", domain=edges, range=list(DIVERGING)),
        )
    )
    return (cells + cell_words(base, "difference", "+.3f" if limit > 0.01 else "+.4f", edges)).properties(
        width=WIDTH - 120, height=alt.Step(22)
    )


FIGURE = Figure(
    order=60,
    title="Gains and losses by category",
    question="What does the gain consist of, and what was traded away for it?",
    columns={
        "mixture": "mixture",
        "category": "category",
        "score": "score",
        "difference": "difference to the baseline",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
