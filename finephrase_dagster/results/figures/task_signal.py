"""How well each benchmark tells mixtures apart: the spread over mixtures against the noise of seeds."""

from __future__ import annotations

from itertools import product
from statistics import stdev
from typing import Any

from finephrase_dagster.evaluate.metric import FORMS, LAST, LAST_NAME
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.results.evidence import Evidence, seed_noise
from finephrase_dagster.results.figure import INK, ORIGINAL, SYNTHETIC, WIDTH, Figure, Rows, alt

MEASURES = ("probability per token", "bits per byte")
ESTIMATES = ("last checkpoint", f"mean of the last {LAST}")
WEAK = 3.0
"""A benchmark whose mixtures spread less than this many times as far as its seeds says little about mixtures."""


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return signal and noise of each benchmark and of the macro score by each measure and estimate, clearest first."""
    found = []
    for name, form in product(("macro", *benchmarks()), FORMS):
        score = form.of(name)
        values = [entry.scores[score] for entry in evidence.entries if score in entry.scores]
        noise, freedom = seed_noise(evidence.entries, score)
        if len(values) < 3 or not noise:
            continue
        signal = stdev(values)
        found.append(
            {
                "score": score,
                "benchmark": name,
                "measure": MEASURES[form.bits],
                "estimate": ESTIMATES[form.averaged],
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
    """Name the benchmarks that say little, and what averaging checkpoints gains."""
    final = [row for row in rows if "/" not in row["score"]] or rows
    weak = [f"{row['benchmark']} ({row['ratio']:.1f})" for row in final if row["weak"]]
    averaged = {row["benchmark"]: row for row in rows if row["score"] == f"{row['benchmark']}/{LAST_NAME}"}
    fewer = [row["benchmark"] for row in final if row["weak"] and not averaged.get(row["benchmark"], row)["weak"]]
    return (
        f"Standard deviation over mixtures divided by that over seeds. {final[0]['benchmark']} tells mixtures apart "
        f"best ({final[0]['ratio']:.1f}); "
        + (f"weak: {', '.join(weak)}. Do not read much into those alone." if weak else "no benchmark is weak.")
        + (f" By the mean of the last {LAST} checkpoints {', '.join(fewer)} would not be weak." if fewer else "")
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw both estimates of each benchmark, a panel per measure, and the line below which one is weak."""
    order = list(dict.fromkeys(row["benchmark"] for row in rows))
    measures = [measure for measure in MEASURES if any(row["measure"] == measure for row in rows)]
    panels = []
    for measure in measures:
        base = alt.Chart(alt.Data(values=[row for row in rows if row["measure"] == measure])).encode(
            y=alt.Y("benchmark:N", title=None, sort=order)
        )
        x = alt.X("ratio:Q", title="spread over mixtures / spread over seeds", scale=alt.Scale(zero=True))
        joined = base.mark_line(strokeWidth=1.5, opacity=0.5, color=ORIGINAL).encode(x=x, detail="benchmark:N")
        points = base.mark_point(size=60, filled=True, opacity=1).encode(
            x=x,
            color=alt.Color(
                "weak:N",
                title=None,
                scale=alt.Scale(domain=[False, True], range=[SYNTHETIC, ORIGINAL]),
                legend=alt.Legend(labelExpr="datum.label == 'true' ? 'weak' : 'tells mixtures apart'", orient="bottom"),
            ),
            shape=alt.Shape(
                "estimate:N",
                title=None,
                scale=alt.Scale(domain=list(ESTIMATES), range=["circle", "diamond"]),
                legend=alt.Legend(orient="bottom"),
            ),
        )
        limit = alt.Chart(alt.Data(values=[{"ratio": WEAK}])).mark_rule(strokeDash=[3, 3]).encode(x="ratio:Q")
        width = (WIDTH - 120) // len(measures) - 60 * (len(measures) > 1)
        title = alt.Title(measure, color=INK, fontSize=12, fontWeight="normal")
        panels.append((limit + joined + points).properties(title=title, width=width, height=alt.Step(20)))
    return alt.hconcat(*panels) if len(panels) > 1 else panels[0]


FIGURE = Figure(
    order=80,
    title="Which benchmarks carry signal",
    question="Which benchmarks can tell mixtures apart at all?",
    columns={
        "benchmark": "benchmark",
        "measure": "measure",
        "estimate": "estimate",
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
