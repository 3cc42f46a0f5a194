"""Which mixtures to train next: what a surrogate expects of them, and of every share of two components."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from finephrase_dagster.results.evidence import Entry, Evidence, NoEvidence
from finephrase_dagster.results.figure import BASELINE, INK, ORIGINAL, SYNTHETIC, WIDTH, Figure, Rows, alt
from finephrase_dagster.results.proposals import Proposal, propose
from finephrase_dagster.results.surrogate import Surrogate, Weights

COUNT, LEAST, MOST_CURVES = 5, 3, 4
"""Proposals, shares that make a curve, and curves."""


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the best mixture so far, the proposals, and the expected score by share for pairs of components."""
    try:
        proposals = propose(evidence, count=COUNT)
    except NoEvidence:
        return []
    best = evidence.entry(proposals.best)
    found = [
        {"kind": "best so far", "mixture": best.mixture, **_expected(proposals.surrogate, best.components)},
        *(_proposed(one) for one in proposals.proposals),
        *_curves(evidence, proposals.surrogate),
    ]
    return [dict.fromkeys(FIGURE.columns) | row for row in found]


def shares(weights: Weights) -> str:
    """Return a mixture in words, largest share first."""
    ordered = sorted(weights.items(), key=lambda part: -part[1])
    return " + ".join(f"{share:.0%} {name}" if share < 1 else f"only {name}" for name, share in ordered)


def _proposed(one: Proposal) -> dict[str, Any]:
    chances = {name: getattr(one, name) for name in ("expected_gain", "chance_better", "chance_visible")}
    low, high = one.interval
    return {"kind": "proposed", "mixture": shares(one.weights), "score": one.score, "low": low, "high": high, **chances}


def _expected(surrogate: Surrogate, weights: Weights) -> dict[str, float]:
    mean, covariance = surrogate.predict([weights])
    width = 1.96 * float(covariance[0, 0]) ** 0.5
    return {"score": float(mean[0]), "low": float(mean[0]) - width, "high": float(mean[0]) + width}


def _curves(evidence: Evidence, surrogate: Surrogate) -> list[dict[str, Any]]:
    """Return the expected score by share, and the scores, of the best pairs that were mixed in several shares."""
    pairs: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if len(entry.components) == 2:
            original = entry.first.mix_in or ()
            pairs[tuple(sorted(entry.components, key=lambda name: (name in original, name)))].append(entry)
    found: list[list[dict[str, Any]]] = []
    for (first, second), entries in pairs.items():
        if len({entry.components[first] for entry in entries}) < LEAST or len(found) >= MOST_CURVES:
            continue
        named = {"pair": f"{first}, with {second}"}
        mixed = [{first: step / 20, second: 1 - step / 20} for step in range(21)]
        curve = [
            {"kind": "expected", "share": one[first], "mixture": shares(one), **_expected(surrogate, one)}
            for one in mixed
        ]
        scored = [
            {"kind": "scored", "share": one.components[first], "mixture": one.mixture, "score": one.macro}
            for one in entries
        ]
        found.append([named | row for row in (*curve, *scored)])
    return [row for rows in found for row in rows]


def caption(rows: Rows) -> str:
    """Say what the first proposal may gain, and whether that would be seen."""
    best, first = rows[0], rows[1]
    return (
        f"Next: {first['mixture']}. Its expected score is {first['score']:.4f} (95 % interval {first['low']:.4f} to "
        f"{first['high']:.4f}), and it is better than the best so far, {best['mixture']} ({best['score']:.4f}), with a "
        f"probability of {first['chance_better']:.0%}. With as many seeds as the other mixtures have, the difference "
        f"would be visible with a probability of {first['chance_visible']:.0%}. Trying it gains "
        f"{first['expected_gain']:.4f} on average. These are expectations of a model, not measurements."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw the proposals with their intervals above one panel per pair of components."""
    listed = [row for row in rows if row["kind"] in ("best so far", "proposed")]
    base = alt.Chart(alt.Data(values=listed)).encode(
        y=alt.Y("mixture:N", axis=None, sort=[row["mixture"] for row in listed]),
        color=alt.Color(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=["best so far", "proposed"], range=[BASELINE, SYNTHETIC]),
            legend=alt.Legend(orient="top"),
        ),
    )
    scale = alt.Scale(zero=False)
    bars = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="expected macro score", scale=scale, axis=alt.Axis(tickCount=6)), x2="high"
    )
    dots = base.mark_point(size=70, filled=True, opacity=1).encode(x="score:Q")
    names = base.mark_text(align="left", dy=-13, limit=WIDTH).encode(
        x=alt.value(0), text="mixture:N", color=alt.value(INK)
    )
    top = (bars + dots + names).properties(width=WIDTH, height=alt.Step(38))
    if not (pairs := list(dict.fromkeys(row["pair"] for row in rows if row["pair"]))):
        return top
    columns = 1 if len(pairs) == 1 else 2
    width = WIDTH / columns - 20 * (columns - 1)
    panels = [_panel([row for row in rows if row["pair"] == pair], pair, width) for pair in pairs]
    return alt.vconcat(top, alt.concat(*panels, columns=columns).resolve_scale(y="shared"))


def _panel(rows: Rows, pair: str, width: float) -> alt.LayerChart:
    expected = alt.Chart(alt.Data(values=[row for row in rows if row["kind"] == "expected"]))
    x = alt.X("share:Q", title=f"share of {pair}", axis=alt.Axis(format="%", tickCount=5, titleLimit=width))
    band = expected.mark_area(color=SYNTHETIC, opacity=0.18).encode(
        x=x, y=alt.Y("low:Q", title="macro score", scale=alt.Scale(zero=False)), y2="high"
    )
    line = expected.mark_line(color=SYNTHETIC).encode(x=x, y="score:Q")
    dots = (
        alt.Chart(alt.Data(values=[row for row in rows if row["kind"] == "scored"]))
        .mark_point(size=40, filled=True, color=ORIGINAL, opacity=1)
        .encode(x="share:Q", y="score:Q")
    )
    return (band + line + dots).properties(width=width, height=170)


FIGURE = Figure(
    order=45,
    title="What to train next",
    question="Which mixture is most likely to be better than the best so far?",
    columns={
        "kind": "kind",
        "mixture": "mixture",
        "score": "macro score, expected or measured",
        "low": "95 % interval from",
        "high": "to",
        "expected_gain": "expected gain",
        "chance_better": "chance to be better",
        "chance_visible": "chance that it shows",
        "pair": "components",
        "share": "share of the first",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
