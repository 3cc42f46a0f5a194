"""What each format does for knowledge and for common sense."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any, Literal

from finephrase_dagster.results.evidence import Entry, Evidence
from finephrase_dagster.results.figure import INK, SYNTHETIC, WIDTH, Figure, Rows, alt

KNOWLEDGE, COMMON_SENSE = "GK", "NLU"
LEAST = 3  # prompts that make a figure
HEIGHT = 300
PLACES: tuple[tuple[Literal["left", "center", "right"], int, int], ...] = (
    ("left", 11, 0),
    ("right", -11, 0),
    ("center", 0, -14),
    ("center", 0, 15),
    ("left", 8, -14),
    ("right", -8, -14),
    ("left", 8, 15),
    ("right", -8, 15),
)
"""Where the name of a point may stand: alignment and distances in pixels."""


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the mean difference to the baseline of at least three prompts, over the mixtures that hold one dataset."""
    baseline = evidence.baseline.scores
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if len(entry.datasets) == 1 and {KNOWLEDGE, COMMON_SENSE} <= set(entry.scores) & set(baseline):
            groups[entry.datasets[0].prompt].append(entry)
    found = [
        {
            "prompt": prompt,
            "knowledge": fmean(entry.scores[KNOWLEDGE] - baseline[KNOWLEDGE] for entry in entries),
            "common_sense": fmean(entry.scores[COMMON_SENSE] - baseline[COMMON_SENSE] for entry in entries),
            "macro": fmean(entry.macro - evidence.baseline.macro for entry in entries),
            "mixtures": len(entries),
        }
        for prompt, entries in groups.items()
    ]
    return sorted(found, key=lambda row: -row["macro"]) if len(found) >= LEAST else []


def caption(rows: Rows) -> str:
    """Name the formats that gain on one side and lose on the other."""
    split = [row["prompt"] for row in rows if row["knowledge"] > 0 > row["common_sense"]]
    return f"Best format on average over its mixtures: {rows[0]['prompt']} ({rows[0]['macro']:+.4f} macro). " + (
        f"More knowledge, less common sense than the baseline: {', '.join(split)}."
        if split
        else "No format gains knowledge and loses common sense."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a point per format, and the baseline as two lines."""
    base = alt.Chart(alt.Data(values=_placed(rows))).encode(
        x=alt.X("knowledge:Q", title="general knowledge, difference to the baseline"),
        y=alt.Y("common_sense:Q", title="language understanding, difference to the baseline"),
    )
    points = base.mark_circle(color=SYNTHETIC, opacity=0.85).encode(
        size=alt.Size(
            "mixtures:Q",
            title="mixtures",
            scale=alt.Scale(range=[40, 300], zero=False),
            legend=alt.Legend(orient="bottom", tickCount=4),
        )
    )
    names = [
        base.transform_filter(f"datum.place == {place}")
        .mark_text(align=align, dx=dx, dy=dy, color=INK)
        .encode(text="prompt:N")
        for place, (align, dx, dy) in enumerate(PLACES)
    ]
    lines = alt.Chart(alt.Data(values=[{"zero": 0}]))
    across = lines.mark_rule(strokeDash=[2, 3]).encode(y="zero:Q")
    down = lines.mark_rule(strokeDash=[2, 3]).encode(x="zero:Q")
    return alt.layer(across, down, points, *names).properties(width=WIDTH - 60, height=HEIGHT)


def _placed(rows: Rows) -> list[dict[str, Any]]:
    """Give each name the first place around its point where it covers no other name or point."""
    width, height = (_extent([row[field] for row in rows]) for field in ("knowledge", "common_sense"))
    points = [(row["knowledge"] / width * (WIDTH - 60), -row["common_sense"] / height * HEIGHT) for row in rows]
    boxes = [(x, y, 6.0) for x, y in points]
    placed = []
    for row, (x, y) in zip(rows, points, strict=True):
        half = 3.2 * len(row["prompt"])  # pixels, about
        found = [(x + dx + {"left": half, "right": -half}.get(align, 0), y + dy) for align, dx, dy in PLACES]
        clear = [
            place
            for place, (center, line) in enumerate(found)
            if all(abs(center - other) > half + wide or abs(line - at) > 12 for other, at, wide in boxes)
        ]
        place = clear[0] if clear else 0
        boxes.append((*found[place], half))
        placed.append({**row, "place": place})
    return placed


def _extent(values: list[float]) -> float:
    return (max(values) - min(values)) or 1.0


FIGURE = Figure(
    order=64,
    title="Knowledge against common sense",
    question="Does a format that teaches facts cost common sense?",
    columns={
        "prompt": "prompt",
        "knowledge": "general knowledge, difference",
        "common_sense": "language understanding, difference",
        "macro": "macro, difference",
        "mixtures": "mixtures",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
