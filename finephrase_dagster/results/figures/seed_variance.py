"""Where the noise of seeds comes from: the order of the data, or the student's initial weights."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np

from finephrase_dagster.results.evidence import Entry, Evidence
from finephrase_dagster.results.figure import WIDTH, Figure, Rows, alt

_SEEDS = re.compile(r"data (?P<data>\d+), model (?P<model>\d+)")
PARTS = {"data": "order of the data", "model": "initial weights", "rest": "both together"}


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the variance of complete grids of data and model seeds in three parts, by student and mixture."""
    found = []
    for student, entries in {evidence.student: evidence.entries, **evidence.other}.items():
        for entry in entries:
            if (grid := _grid(entry)) is None:
                continue
            data, model, rest = _components(grid)
            total = max(data, 0) + max(model, 0) + rest
            for part, variance in (("data", data), ("model", model), ("rest", rest)):
                found.append(
                    {
                        "mixture": entry.mixture,
                        "student": student,
                        "part": PARTS[part],
                        "variance": variance,
                        "share": max(variance, 0) / total if total else None,
                    }
                )
    return found


def _grid(entry: Entry) -> np.ndarray | None:
    """Return the macro scores by data seed and model seed; None if they are no complete grid of at least 2 x 2."""
    scores: dict[tuple[int, int], float] = {}
    for run in entry.runs:
        if (seeds := _SEEDS.fullmatch(run.seed or "")) and "macro" in run.scores:
            scores[int(seeds["data"]), int(seeds["model"])] = run.scores["macro"]
    by_data: dict[int, list[int]] = defaultdict(list)
    for data, model in sorted(scores):
        by_data[data].append(model)
    models = next(iter(by_data.values()), [])
    if len(by_data) < 2 or len(models) < 2 or any(found != models for found in by_data.values()):
        return None
    return np.array([[scores[data, model] for model in models] for data in by_data])


def _components(grid: np.ndarray) -> tuple[float, float, float]:
    """Return the variance components of a two-way table with one value a cell; an estimate may be below 0."""
    rows, columns = grid.shape
    mean, by_row, by_column = grid.mean(), grid.mean(axis=1), grid.mean(axis=0)
    rest = ((grid - by_row[:, None] - by_column + mean) ** 2).sum() / ((rows - 1) * (columns - 1))
    return (
        float(by_row.var(ddof=1) - rest / columns),
        float(by_column.var(ddof=1) - rest / rows),
        float(rest),
    )


def caption(rows: Rows) -> str:
    """State the mean share of each part."""
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        totals[row["part"]] += max(row["variance"], 0)
    whole = sum(totals.values()) or 1.0
    parts = ", ".join(f"{name} {totals[name] / whole:.0%}" for name in PARTS.values())
    grids = len({(row["mixture"], row["student"]) for row in rows})
    return (
        f"Variance of the macro score over {grids} complete grids of seeds: {parts}. A study that varies one kind of "
        "seed alone sees only a part of the noise."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a stacked bar per grid."""
    shown = [{**row, "entry": f"{row['mixture']} · {row['student']}"} for row in rows if row["share"] is not None]
    return (
        alt.Chart(alt.Data(values=shown))
        .mark_bar(height=14)
        .encode(
            x=alt.X("share:Q", title="share of the variance over seeds", axis=alt.Axis(format="%")),
            y=alt.Y("entry:N", title=None, sort=list(dict.fromkeys(row["entry"] for row in shown))),
            color=alt.Color("part:N", title=None, sort=list(PARTS.values())),
        )
        .properties(width=WIDTH - 220, height=alt.Step(22))
    )


FIGURE = Figure(
    order=94,
    title="What the noise consists of",
    question="Is it the order of the data or the initial weights that makes runs differ?",
    columns={
        "mixture": "mixture",
        "student": "student",
        "part": "part",
        "variance": "variance",
        "share": "share",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
