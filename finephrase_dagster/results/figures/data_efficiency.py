"""How many tokens of the baseline one token of a mixture is worth."""

from __future__ import annotations

from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import BASELINE, SYNTHETIC, WIDTH, Figure, Rows, alt
from finephrase_dagster.results.figures.learning_curves import reached

SHOWN = 25


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the efficiency of each mixture, best first.

    A better mixture is worth the baseline's tokens by those after which it stays at the baseline's final score; a worse
    one, the tokens after which the baseline stays at the mixture's final score by the mixture's own.
    """
    baseline = evidence.baseline.curve()
    found = []
    for entry in evidence.entries:
        curve = entry.curve()
        if entry is evidence.baseline or min(len(curve), len(baseline)) < 2:
            continue
        last = max(curve)
        if curve[last] >= baseline[max(baseline)]:
            step = reached(curve, baseline[max(baseline)])
            worth = max(baseline) / step if step else None
        else:
            step = None
            worth = (reached(baseline, curve[last]) or max(baseline)) / last
        found.append(
            {
                "mixture": entry.mixture,
                "efficiency": worth,
                "better": curve[last] >= baseline[max(baseline)],
                "speed_up_step": step,
                "tokens_saved": None if step is None else (entry.first.tokens or 0) * (1 - step / last) or None,
                "macro": curve[last],
            }
        )
    return sorted((row for row in found if row["efficiency"]), key=lambda row: -row["efficiency"])


def caption(rows: Rows) -> str:
    """Name the most efficient mixture."""
    best, better = rows[0], sum(row["better"] for row in rows)
    return (
        f"A token of {best['mixture']} is worth {best['efficiency']:.1f} tokens of the baseline; {better} of "
        f"{len(rows)} mixtures are worth more than one. Right of 1, a mixture reaches the baseline's final score for "
        "good after that many times fewer tokens (the speed-up); left of 1, the baseline reaches that of the mixture."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw the most efficient mixtures."""
    shown = list(rows)[:SHOWN]
    points = (
        alt.Chart(alt.Data(values=shown))
        .mark_circle(size=60, opacity=1)
        .encode(
            x=alt.X(
                "efficiency:Q",
                title="tokens of the baseline that one token is worth",
                scale=alt.Scale(zero=False),
            ),
            y=alt.Y("mixture:N", title=None, sort=[row["mixture"] for row in shown]),
            color=alt.Color(
                "better:N",
                title=None,
                scale=alt.Scale(domain=[True, False], range=[SYNTHETIC, BASELINE]),
                legend=alt.Legend(labelExpr="datum.label == 'true' ? 'better than the baseline' : 'worse'"),
            ),
        )
    )
    one = alt.Chart(alt.Data(values=[{"efficiency": 1}])).mark_rule(strokeDash=[2, 3]).encode(x="efficiency:Q")
    return (one + points).properties(width=WIDTH - 220, height=alt.Step(18))


FIGURE = Figure(
    order=32,
    title="Data efficiency",
    question="How many training tokens does a better mixture save?",
    columns={
        "mixture": "mixture",
        "efficiency": "tokens of the baseline that one is worth",
        "better": "better than the baseline",
        "speed_up_step": "step from which it stays at the baseline's final score",
        "tokens_saved": "tokens saved",
        "macro": "macro score",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
