"""How well scores on the way predict the final order of the mixtures."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from finephrase_dagster.results.early import spearman
from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import WIDTH, Figure, Rows, alt

AGREED = 0.9
MEASURES = {"rank_correlation": "rank correlation", "agreement": "pairs in the final order"}


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return rank correlation and share of pairs in the final order, by share of the training."""
    curves = [entry.curve() for entry in evidence.entries]
    last = max((max(curve) for curve in curves), default=0)
    ended = [curve for curve in curves if last in curve]
    found = []
    for step in sorted({step for curve in ended for step in curve if step < last}):
        pairs = [(curve[step], curve[last]) for curve in ended if step in curve]
        if len(pairs) < 3:
            continue
        orders = [
            (one[0] - other[0]) * (one[1] - other[1]) > 0 for one, other in combinations(pairs, 2) if one[1] != other[1]
        ]
        found.append(
            {
                "step": step,
                "share": step / last,
                "rank_correlation": spearman([early for early, _ in pairs], [final for _, final in pairs]),
                "agreement": sum(orders) / len(orders) if orders else None,
                "mixtures": len(pairs),
            }
        )
    return found


def caption(rows: Rows) -> str:
    """Say from when on nine of ten pairs stand as they end."""
    early = next((row for row in rows if (row["agreement"] or 0) >= AGREED), None)
    if early is None:
        last = rows[-1]
        return (
            f"At no step before the end do {AGREED:.0%} of the pairs of mixtures stand in their final order; at the "
            f"last, {last['share']:.0%} of the training, {last['agreement'] or 0:.0%} do."
        )
    return (
        f"From {early['share']:.0%} of the training on, at least {AGREED:.0%} of the pairs of mixtures first stand in "
        f"their final order ({early['agreement']:.0%} of the pairs of {early['mixtures']} mixtures)."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw both measures by share of the training."""
    long = [
        {"share": row["share"], "measure": title, "value": row[field]}
        for row in rows
        for field, title in MEASURES.items()
        if row[field] is not None
    ]
    return (
        alt.Chart(alt.Data(values=long))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("share:Q", title="share of the training tokens", axis=alt.Axis(format="%")),
            y=alt.Y("value:Q", title="agreement with the final scores", scale=alt.Scale(zero=False)),
            color=alt.Color("measure:N", title=None, sort=list(MEASURES.values())),
        )
        .properties(width=WIDTH - 60, height=240)
    )


FIGURE = Figure(
    order=100,
    title="How early one can decide",
    question="After how much of the training is the final order known?",
    columns={
        "step": "step",
        "share": "share of the training",
        "rank_correlation": "Spearman's correlation",
        "agreement": "share of pairs in the final order",
        "mixtures": "mixtures",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
