"""Where the time of the engines went."""

from __future__ import annotations

from typing import Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import (
    BASELINE,
    DIVERGING,
    GRID,
    ORIGINAL,
    SERIES,
    SYNTHETIC,
    WIDTH,
    Figure,
    Rows,
    alt,
)

MOST_BARS = 40
PARTS = {
    "ideal": ("ideal", SYNTHETIC),
    "slower": ("slower than the best rate", DIVERGING[4]),
    "start": ("engine start", BASELINE),
    "idle": ("idle engines", ORIGINAL),
    "repeated": ("repeated requests", SERIES[4]),
    "failed": ("failed rows", SERIES[5]),
    "discarded": ("discarded rollouts", SERIES[3]),
    "unaccounted": ("lost with killed runs", SERIES[6]),
    "other": ("other", SERIES[2]),
    "unknown": ("everything else (cause unknown)", GRID),
}
"""The parts in the order in which they are stacked, with what they are called and their colours."""


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the engine-hours of each dataset by part, highest goodput first; None for a part that is not known.

    Of more datasets than bars fit on a page, those of a generator are added up.
    """
    known = [one for one in evidence.times if one["engine_seconds"] and one["ideal_seconds"] is not None]
    groups: dict[str, list[dict[str, float | None]]] = {}
    for one in known:
        several = len(known) > MOST_BARS
        name = one["generator"] if several else f"{one['generator']} / {one['source']} / {one['prompt']}"
        groups.setdefault(name, []).append(_parts(one))
    found = []
    for name, members in groups.items():
        parts = {part: _sum([member[part] for member in members]) for part in members[0]}
        found.append({"dataset": name, "goodput": (parts["ideal"] or 0) / (parts["total"] or 1), **parts})
    return sorted(found, key=lambda row: -row["goodput"])


def _parts(time: Any) -> dict[str, float | None]:
    """Return the hours of a dataset by part; `slower` and `ideal` are what its kept completions took."""
    total, ideal = time["engine_seconds"], time["ideal_seconds"]
    seconds = {part: time.get(f"{part}_seconds") for part in PARTS} | {"total": total}
    if time["kept_seconds"] is None:
        seconds["unknown"] = total - ideal
    else:
        seconds["slower"] = time["kept_seconds"] - ideal
    return {part: None if value is None else value / 3600 for part, value in seconds.items()}


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def caption(rows: Rows) -> str:
    """Give the goodput of all datasets together, and where most of the rest went."""
    total = sum(row["total"] for row in rows)
    hours = {part: sum(row[part] or 0 for row in rows) for part in PARTS}
    lost = max((part for part in PARTS if part != "ideal"), key=lambda part: hours[part])
    spent, needed = (f"{value:,.0f}" if value >= 100 else f"{value:,.2g}" for value in (total, hours["ideal"]))
    text = f"Goodput {hours['ideal'] / total:.0%}: of {spent} hours of engines, the kept tokens need {needed} at the "
    if lost == "unknown":
        return f"{text}best rate of the published sweep. Where the other {hours[lost] / total:.0%} went is not known."
    return f"{text}best steady rate. Most of the rest: {PARTS[lost][0]}, {hours[lost] / total:.0%}."


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a stacked bar per dataset."""
    long = [
        {
            "dataset": row["dataset"],
            "part": title,
            "place": place,
            "hours": row[part],
            "share": row[part] / row["total"],
        }
        for row in rows
        for place, (part, (title, _)) in enumerate(PARTS.items())
        if row[part]
    ]
    used = [(title, color) for title, color in PARTS.values() if any(one["part"] == title for one in long)]
    return (
        alt.Chart(alt.Data(values=long))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share of the engines' time", axis=alt.Axis(format="%"), scale={"domain": [0, 1]}),
            y=alt.Y("dataset:N", title=None, sort=[row["dataset"] for row in rows]),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=[title for title, _ in used], range=[color for _, color in used]),
                legend=alt.Legend(orient="top", columns=3),
            ),
            order="place:Q",
        )
        .properties(width=WIDTH - 280, height=alt.Step(22))
    )


FIGURE = Figure(
    order=125,
    title="Where the engines' time went",
    question="How much of what was paid for did the dataset need?",
    columns={
        "dataset": "dataset",
        "goodput": "goodput (ideal / total)",
        "total": "total (engine-hours)",
        **{part: f"{title} (engine-hours)" for part, (title, _) in PARTS.items()},
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
