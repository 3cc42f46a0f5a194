"""The difference of each comparable mixture to the baseline, with its interval."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import (
    BASELINE,
    MUTED,
    ORIGINAL,
    SERIES,
    SYNTHETIC,
    WIDTH,
    Figure,
    Rows,
    alt,
    as_score,
)

SHOWN = 30
WORDS = {"beats": SYNTHETIC, "ties": ORIGINAL, "undecided": SERIES[4], "loses": BASELINE}


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the verdicts on matched pairs, the largest difference first."""
    found = [
        {
            "mixture": verdict.arm.mixture,
            "verdict": verdict.verdict,
            "difference": verdict.difference,
            "low": verdict.interval and verdict.interval[0],
            "high": verdict.interval and verdict.interval[1],
            "p_value": verdict.p_value,
            "seeds": len(verdict.arm.runs),
            "seeds_to_decide": verdict.decision and verdict.decision.seeds,
            "baseline": evidence.baseline.mixture,
            "smallest": verdict.smallest,
        }
        for verdict in evidence.verdicts
        if not verdict.mismatches and verdict.difference is not None
    ]
    return sorted(found, key=lambda row: -row["difference"])


def caption(rows: Rows) -> str:
    """Count the verdicts."""
    counts = Counter(row["verdict"] for row in rows)
    parts = ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word])
    return (
        f"Of {len(rows)} mixtures that differ from {rows[0]['baseline']} in their synthetic text alone: {parts}. "
        f"Intervals are 95 % for all of them together; between the dotted lines a difference is too small to matter"
        f" ({as_score(rows[0]['smallest'] or 0)})."
        + (f" The first and last {SHOWN // 2} are drawn." if len(rows) > SHOWN else "")
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw an interval per mixture around its difference."""
    shown = list(rows) if len(rows) <= SHOWN else [*rows[: SHOWN // 2], *rows[-SHOWN // 2 :]]
    base = alt.Chart(alt.Data(values=shown)).encode(
        y=alt.Y("mixture:N", title=None, sort=[row["mixture"] for row in shown]),
        color=alt.Color("verdict:N", title=None, scale=alt.Scale(domain=list(WORDS), range=list(WORDS.values()))),
    )
    x = alt.X("low:Q", title=f"macro score minus that of {rows[0]['baseline']}", axis=alt.Axis(tickCount=6))
    bars = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x, x2="high:Q")
    points = base.mark_circle(size=60, opacity=1).encode(x="difference:Q")
    smallest = rows[0]["smallest"] or 0.0
    edges = [{"edge": -smallest}, {"edge": smallest}]
    limits = alt.Chart(alt.Data(values=edges)).mark_rule(strokeDash=[2, 3], color=MUTED).encode(x="edge:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=MUTED).encode(x="zero:Q")
    return (limits + zero + bars + points).properties(width=WIDTH - 220, height=alt.Step(18))


FIGURE = Figure(
    order=20,
    title="Verdicts against the baseline",
    question="Which mixtures beat the baseline when nothing but their synthetic text differs?",
    columns={
        "mixture": "mixture",
        "verdict": "verdict",
        "difference": "difference",
        "low": "low (95 %)",
        "high": "high (95 %)",
        "p_value": "p-value",
        "seeds": "seeds",
        "seeds_to_decide": "further seeds that would decide",
        "smallest": "smallest difference of interest",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
