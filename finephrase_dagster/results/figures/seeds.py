"""The score of every run of mixtures that were trained with several seeds."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from finephrase_dagster.results.evidence import Evidence, seed_noise
from finephrase_dagster.results.figure import SYNTHETIC, WIDTH, Figure, Rows, alt, as_score


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the runs of the mixtures with at least two seeds, for every student."""
    found = []
    for student, entries in {evidence.student: evidence.entries, **evidence.other}.items():
        noise, _ = seed_noise(entries)
        for entry in entries:
            if len(entry.runs) > 1:
                found += [
                    {
                        "mixture": entry.mixture,
                        "student": student,
                        "seed": run.seed or "unknown",
                        "macro": run.scores["macro"],
                        "off": run.scores["macro"] - fmean(other.scores["macro"] for other in entry.runs),
                        "noise": noise,
                    }
                    for run in entry.runs
                    if "macro" in run.scores
                ]
    return found


def caption(rows: Rows) -> str:
    """State the noise by student."""
    noise = {row["student"]: row["noise"] for row in rows if row["noise"] is not None}
    parts = [f"{student}: {as_score(sd)}" for student, sd in noise.items()]
    return (
        f"Each point is one run, as its distance from the mean of its mixture. Standard deviation of the macro score "
        f"over seeds, pooled over mixtures, by student: {', '.join(parts)}."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw one strip per mixture and student."""
    labelled = [{**row, "entry": f"{row['mixture']} · {row['student']}"} for row in rows]
    order = list(dict.fromkeys(row["entry"] for row in labelled))
    ticks = (
        alt.Chart(alt.Data(values=labelled))
        .mark_circle(size=55, opacity=0.6, color=SYNTHETIC)
        .encode(
            x=alt.X("off:Q", title="macro score minus the mean of its mixture"),
            y=alt.Y("entry:N", title=None, sort=order),
        )
    )
    zero = alt.Chart(alt.Data(values=[{"off": 0}])).mark_rule(strokeDash=[2, 3]).encode(x="off:Q")
    return (zero + ticks).properties(width=WIDTH - 220, height=alt.Step(22))


FIGURE = Figure(
    order=90,
    title="Seeds",
    question="How far do runs differ that differ in nothing but their random seed?",
    columns={
        "mixture": "mixture",
        "student": "student",
        "seed": "seed",
        "macro": "macro score",
        "off": "distance from the mixture's mean",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
