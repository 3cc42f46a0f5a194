"""Scores on the way, and when a mixture reaches the baseline's final score."""

from __future__ import annotations

from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import WIDTH, Figure, Rows, alt

BEST = 4


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the macro score by share of the training, of the best mixtures and the baseline."""
    target = evidence.baseline.macro
    found: list[dict[str, Any]] = []
    for entry in dict.fromkeys([*evidence.entries[:BEST], evidence.baseline]):
        curve = entry.curve()
        last = max(curve)
        crossing = reached(curve, target)
        found += [
            {
                "mixture": entry.mixture,
                "text": "baseline" if entry is evidence.baseline else "mixture",
                "step": step,
                "share": step / last,
                "macro": score,
                "reaches_baseline_at": None if crossing is None else crossing / last,
            }
            for step, score in curve.items()
        ]
    return found if any(row["share"] < 1 for row in found) else []


def reached(curve: dict[int, float], target: float) -> float | None:
    """Return the step from which on a curve stays at or above a score, between two scored steps in proportion."""
    steps = sorted(curve)
    below = [step for step in steps if curve[step] < target]
    if not below:
        return steps[0]
    if below[-1] == steps[-1]:
        return None
    before, after = below[-1], steps[steps.index(below[-1]) + 1]
    return before + (after - before) * (target - curve[before]) / (curve[after] - curve[before])


def caption(rows: Rows) -> str:
    """Say how much sooner the best mixture reaches the baseline's final score."""
    best = next(row for row in rows if row["text"] != "baseline")
    baseline = next(row["mixture"] for row in rows if row["text"] == "baseline")
    if best["reaches_baseline_at"] is None:
        return f"No mixture stays above the final score of the baseline, {baseline}, before the end of its training."
    return (
        f"{best['mixture']} stays above the final score of the baseline, {baseline}, after "
        f"{best['reaches_baseline_at']:.0%} of its training tokens ({1 / best['reaches_baseline_at']:.1f} times as "
        "fast). Each mark is where a curve crosses that score for good."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a line per mixture, the baseline's final score, and the crossings."""
    final = max((row for row in rows if row["text"] == "baseline"), key=lambda row: row["share"])["macro"]
    order = list(dict.fromkeys(row["mixture"] for row in rows))
    color = alt.Color("mixture:N", title=None, sort=order, legend=alt.Legend(orient="bottom", columns=1))
    x = alt.X("share:Q", title="share of the training tokens", axis=alt.Axis(format="%"))
    lines = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=alt.Y("macro:Q", title="macro score", scale=alt.Scale(zero=False)),
            color=color,
            strokeDash=alt.StrokeDash("text:N", legend=None, scale=alt.Scale(range=[[5, 4], [1, 0]])),
        )
    )
    level = alt.Chart(alt.Data(values=[{"macro": final}])).mark_rule(strokeDash=[2, 3]).encode(y="macro:Q")
    crossings = [
        {"mixture": row["mixture"], "share": row["reaches_baseline_at"], "macro": final}
        for row in rows
        if row["share"] == 1 and row["text"] != "baseline" and row["reaches_baseline_at"] is not None
    ]
    marks = (
        alt.Chart(alt.Data(values=crossings))
        .mark_point(size=90, filled=True, opacity=1)
        .encode(x="share:Q", y="macro:Q", color=color)
    )
    return (level + lines + marks).properties(width=WIDTH, height=300)


FIGURE = Figure(
    order=30,
    title="Learning curves",
    question="Does a better mixture also learn faster?",
    columns={
        "mixture": "mixture",
        "step": "step",
        "share": "share of the training",
        "macro": "macro score",
        "reaches_baseline_at": "stays above the baseline's final score from this share on",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
