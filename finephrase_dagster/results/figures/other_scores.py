"""Whether the chosen mixture is better by other scores too."""

from __future__ import annotations

from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import BASELINE, MUTED, SYNTHETIC, WIDTH, Figure, Rows, alt
from finephrase_dagster.results.robustness import other_scores


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the chosen mixture against the baseline, one row per score; a gain above 0 means better."""
    found = []
    for one in other_scores(evidence):
        verdict, baseline = one.verdict, evidence.baseline.scores[str(one.metric)]
        low, high = sorted(one.metric.sign * end / baseline for end in verdict.interval or ()) or (None, None)
        found.append(
            {
                "score": str(one.metric),
                "mixture": verdict.arm.mixture,
                "verdict": verdict.verdict,
                "better": one.held,
                "gain": one.metric.sign * (verdict.difference or 0.0) / baseline,
                "low": low,
                "high": high,
                "difference": verdict.difference,
                "noise": verdict.noise and verdict.noise.sd,
                "rank": one.rank,
                "best": one.best,
            }
        )
    return found if len(found) > 1 else []


def caption(rows: Rows) -> str:
    """Say by how many scores the choice holds."""
    better, first = sum(row["better"] for row in rows), rows[0]
    best = sum(row["rank"] == 1 for row in rows)
    against = [row["score"] for row in rows if not row["better"]]
    return (
        f"{first['mixture']} is better than the baseline by {better} of {len(rows)} scores, and the best of all "
        f"mixtures by {best}. Right of 0 is better, also for bits per byte, of which fewer are better."
        + (f" It is worse by {', '.join(against)}." if against else "")
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw the gain of the chosen mixture by each score, with its interval."""
    color = alt.Color(
        "better:N",
        title=None,
        scale=alt.Scale(domain=[True, False], range=[SYNTHETIC, BASELINE]),
        legend=alt.Legend(labelExpr="datum.label == 'true' ? 'better' : 'worse'"),
    )
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        y=alt.Y("score:N", title=None, sort=[row["score"] for row in rows]), color=color
    )
    bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(x="low:Q", x2="high:Q")
    x = alt.X("gain:Q", title="gain over the baseline, as a share of its score", axis=alt.Axis(format="+.0%"))
    points = base.mark_circle(size=70, opacity=1).encode(x=x)
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=MUTED).encode(x="zero:Q")
    return (zero + bars + points).properties(width=WIDTH - 200, height=alt.Step(24))


FIGURE = Figure(
    order=25,
    title="The choice by other scores",
    question="Is the mixture that the answer names better by other scores, and on tasks that did not choose it?",
    columns={
        "score": "score",
        "mixture": "mixture",
        "verdict": "verdict against the baseline",
        "better": "better",
        "gain": "gain (share of the baseline's score)",
        "low": "low (95 %)",
        "high": "high (95 %)",
        "difference": "difference",
        "noise": "sd of one seed",
        "rank": "rank",
        "best": "best mixture by this score",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
