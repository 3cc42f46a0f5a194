"""The mixtures by macro score, each with the interval that its seeds allow."""

from __future__ import annotations

from typing import Any

from finephrase_dagster.results.evidence import Evidence, mean_interval
from finephrase_dagster.results.figure import BASELINE, ORIGINAL, SYNTHETIC, WIDTH, Figure, Rows, alt

SHOWN = 25


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return one row per mixture, best first."""
    return [
        {
            "rank": place,
            "mixture": entry.mixture,
            "text": "baseline"
            if entry is evidence.baseline
            else "original"
            if entry.kind == "original"
            else "rephrased",
            "macro": entry.macro,
            **dict(zip(("low", "high"), mean_interval(evidence, entry), strict=True)),
            "seeds": len(entry.runs),
            "synthetic": entry.synthetic,
        }
        for place, entry in enumerate(evidence.entries, 1)
    ]


def caption(rows: Rows) -> str:
    """Name the best and say how many cannot be told from it."""
    best = rows[0]
    if best["low"] is None:
        return (
            f"{best['mixture']} has the highest macro score, {best['macro']:.4f}. No mixture has two seeds, so nothing "
            "here says which differences are noise."
        )
    close = sum(row["high"] >= best["low"] for row in rows[1:])
    return (
        f"{best['mixture']} has the highest macro score, {best['macro']:.4f}; the intervals of {close} of the other "
        f"{len(rows) - 1} mixtures overlap with its own. Bars are 95 % intervals from the noise of seeds."
        + (f" The best {SHOWN} and the baseline are drawn." if len(rows) > SHOWN else "")
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw the best mixtures and the baseline."""
    shown = [row for row in rows if row["rank"] <= SHOWN or row["text"] == "baseline"]
    kinds = ["rephrased", "original", "baseline"]
    color = alt.Color("text:N", title=None, scale=alt.Scale(domain=kinds, range=[SYNTHETIC, ORIGINAL, BASELINE]))
    y = alt.Y("mixture:N", sort=[row["mixture"] for row in shown], title=None)
    x = alt.X("macro:Q", title="macro score (mean probability of the gold answers, 6 categories)")
    base = alt.Chart(alt.Data(values=shown)).encode(y=y, color=color)
    bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(x=alt.X("low:Q"), x2="high:Q")
    points = base.mark_circle(size=60, opacity=1).encode(x=x.scale(zero=False).axis(tickCount=6))
    return (bars + points).properties(width=WIDTH - 220, height=alt.Step(18))


FIGURE = Figure(
    order=10,
    title="Leaderboard",
    question="Which mixture makes the best student, and which differences could be chance?",
    columns={
        "rank": "rank",
        "mixture": "mixture",
        "text": "text",
        "macro": "macro score",
        "low": "low (95 %)",
        "high": "high (95 %)",
        "seeds": "seeds",
        "synthetic": "synthetic share",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
