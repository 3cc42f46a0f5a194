"""What generating a mixture's synthetic text costs, against the score."""

from __future__ import annotations

import math
from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import BASELINE, SYNTHETIC, WIDTH, Figure, Rows, alt, as_number


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the mixtures whose synthetic text has a known cost, cheapest first."""
    found: list[dict[str, Any]] = []
    for entry in evidence.entries:
        hours = [dataset.gpu_hours for dataset in entry.datasets]
        synthetic = set(entry.components) - set(entry.first.mix_in or ())
        if not hours or None in hours or len(hours) < len(synthetic):
            continue
        found.append(
            {
                "mixture": entry.mixture,
                "gpu_hours": math.fsum(value for value in hours if value is not None),
                "macro": entry.macro,
            }
        )
    found.sort(key=lambda row: (row["gpu_hours"], -row["macro"]))
    best = -math.inf
    for row in found:
        row["frontier"] = row["macro"] > best
        best = max(best, row["macro"])
    return [row for row in found if row["gpu_hours"] > 0]


def caption(rows: Rows) -> str:
    """Name the cheapest and the best of the frontier."""
    frontier = [row for row in rows if row["frontier"]]
    first, last = frontier[0], frontier[-1]
    if first is last:
        return f"{last['mixture']} is both the cheapest and the best of {len(rows)} mixtures of known cost."
    hours = [as_number(row["gpu_hours"]) for row in (first, last)]
    return (
        f"On the frontier, where a better score costs more, the score rises from {first['macro']:.4f} for {hours[0]} "
        f"GPU-hours ({first['mixture']}) to {last['macro']:.4f} for {hours[1]} GPU-hours ({last['mixture']}). Text "
        "that several mixtures share is counted in full for each."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw every mixture, and a step line through the frontier."""
    ticks = alt.Axis(tickCount=4, labelOverlap="greedy", grid=False)
    x = alt.X(
        "gpu_hours:Q",
        title="GPU-hours of generation (logarithmic)",
        scale=alt.Scale(type="log", nice=False, padding=20),
        axis=ticks,
    )
    y = alt.Y("macro:Q", title="macro score", scale=alt.Scale(zero=False))
    color = alt.Color(
        "frontier:N",
        title=None,
        scale=alt.Scale(domain=[True, False], range=[BASELINE, SYNTHETIC]),
        legend=alt.Legend(labelExpr="datum.label == 'true' ? 'on the frontier' : 'other mixtures'"),
    )
    points = alt.Chart(alt.Data(values=list(rows))).mark_circle(size=50, opacity=0.75).encode(x=x, y=y, color=color)
    line = (
        alt.Chart(alt.Data(values=[row for row in rows if row["frontier"]]))
        .mark_line(interpolate="step-after", strokeWidth=1.5, color=BASELINE)
        .encode(x=x, y=y)
    )
    return (line + points).properties(width=WIDTH, height=280)


FIGURE = Figure(
    order=50,
    title="Cost against score",
    question="What does a better score cost?",
    columns={
        "mixture": "mixture",
        "gpu_hours": "GPU-hours of generation",
        "macro": "macro score",
        "frontier": "no cheaper mixture is as good",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
