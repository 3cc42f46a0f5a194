"""How well each benchmark tells mixtures apart: the spread over mixtures against the noise of seeds."""

from __future__ import annotations

from statistics import stdev
from typing import TYPE_CHECKING, Any

from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.results.evidence import Evidence, seed_noise
from finephrase_dagster.results.figure import ORIGINAL, SYNTHETIC, WIDTH, Figure, Rows

if TYPE_CHECKING:
    import altair as alt

WEAK = 3.0
"""A benchmark whose mixtures spread less than this many times as far as its seeds says little about mixtures."""


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return signal and noise of each benchmark and of the macro score, clearest first."""
    found = []
    for name in ("macro", *benchmarks()):
        values = [entry.scores[name] for entry in evidence.entries if name in entry.scores]
        noise, freedom = seed_noise(evidence.entries, name)
        if len(values) < 3 or not noise:
            continue
        signal = stdev(values)
        found.append(
            {
                "benchmark": name,
                "ratio": signal / noise,
                "weak": signal / noise < WEAK,
                "signal": signal,
                "noise": noise,
                "mixtures": len(values),
                "degrees_of_freedom": freedom,
            }
        )
    return sorted(found, key=lambda row: -row["ratio"])


def caption(rows: Rows) -> str:
    """Name the benchmarks that say little."""
    weak = [f"{row['benchmark']} ({row['ratio']:.1f})" for row in rows if row["weak"]]
    return (
        f"Standard deviation over mixtures divided by that over seeds. {rows[0]['benchmark']} tells mixtures apart "
        f"best ({rows[0]['ratio']:.1f}); "
        + (f"weak: {', '.join(weak)}. Do not read much into those alone." if weak else "no benchmark is weak.")
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a bar per benchmark, and the line below which one is weak."""
    import altair as alt

    bars = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_bar(cornerRadiusEnd=2, height=13)
        .encode(
            x=alt.X("ratio:Q", title="signal to noise (spread over mixtures / spread over seeds)"),
            y=alt.Y("benchmark:N", title=None, sort=[row["benchmark"] for row in rows]),
            color=alt.Color(
                "weak:N",
                title=None,
                scale=alt.Scale(domain=[False, True], range=[SYNTHETIC, ORIGINAL]),
                legend=alt.Legend(labelExpr="datum.label == 'true' ? 'weak' : 'tells mixtures apart'"),
            ),
        )
    )
    limit = alt.Chart(alt.Data(values=[{"ratio": WEAK}])).mark_rule(strokeDash=[3, 3]).encode(x="ratio:Q")
    return (bars + limit).properties(width=WIDTH - 120, height=alt.Step(20))


FIGURE = Figure(
    order=80,
    title="Which benchmarks carry signal",
    question="Which benchmarks can tell mixtures apart at all?",
    columns={
        "benchmark": "benchmark",
        "ratio": "signal to noise",
        "weak": "weak",
        "signal": "sd over mixtures",
        "noise": "sd over seeds",
        "mixtures": "mixtures",
        "degrees_of_freedom": "degrees of freedom of the noise",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
