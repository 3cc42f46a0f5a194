"""How fast the datasets were generated."""

from __future__ import annotations

import math
from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import SYNTHETIC, WIDTH, Figure, Rows, alt, as_number


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return speed and cost of each dataset, fastest first."""
    found = [
        {
            "generator": dataset.generator,
            "source": dataset.source,
            "prompt": dataset.prompt,
            "tokens_per_second": dataset.tokens_per_second,
            "tokens": dataset.tokens,
            "gpu_hours": dataset.gpu_hours,
        }
        for dataset in evidence.datasets
        if dataset.tokens_per_second
    ]
    return sorted(found, key=lambda row: -row["tokens_per_second"])


def caption(rows: Rows) -> str:
    """Give the mean and the mean weighted by cost."""
    mean = math.fsum(row["tokens_per_second"] for row in rows) / len(rows)
    known = [row for row in rows if row["gpu_hours"]]
    text = f"Mean of {len(rows)} datasets: {mean:,.0f} output tokens per second and device"
    if known:
        hours = math.fsum(row["gpu_hours"] for row in known)
        weighted = math.fsum(row["tokens_per_second"] * row["gpu_hours"] for row in known) / hours
        text += (
            f"; weighted by GPU-hours, which is what is paid for: {weighted:,.0f} ({as_number(hours)} GPU-hours in all)"
        )
    return f"{text}."


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a mark per dataset by generator."""
    return (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_tick(thickness=2, size=14, color=SYNTHETIC)
        .encode(
            x=alt.X("tokens_per_second:Q", title="output tokens per second and device"),
            y=alt.Y("generator:N", title=None, sort="-x"),
        )
        .properties(width=WIDTH - 260, height=alt.Step(20))
    )


FIGURE = Figure(
    order=120,
    title="Speed of generation",
    question="How fast does each generator write?",
    columns={
        "generator": "generator",
        "source": "source",
        "prompt": "prompt",
        "tokens_per_second": "output tokens per second and device",
        "tokens": "output tokens",
        "gpu_hours": "GPU-hours",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
