"""The generators compared: the same prompt and source, another model."""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import fmean
from typing import Any

from finephrase_dagster.results.early import spearman
from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import BASELINE, SYNTHETIC, WIDTH, Figure, Rows, alt


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the score by generator and prompt, where at least two generators made the same kind of mixture."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in evidence.entries:
        if len(entry.datasets) == 1:
            dataset = entry.datasets[0]
            original = tuple(sorted((entry.first.mix_in or {}).items()))
            groups[dataset.prompt, dataset.source, original].append(
                {
                    "generator": dataset.generator,
                    "prompt": dataset.prompt,
                    "source": dataset.source,
                    "mixed_with": " + ".join(name for name, _ in original) or "nothing",
                    "macro": entry.macro,
                    "mixture": entry.mixture,
                }
            )
    kept = [group for group in groups.values() if len({row["generator"] for row in group}) > 1]
    for group in kept:
        mean = fmean(row["macro"] for row in group)
        for row in group:
            row |= {"lead": row["macro"] - mean, "size": _size(row["generator"])}
    return [row for group in kept for row in group]


def _size(generator: str) -> float | None:
    """Return the billions of parameters that the name of a generator states; None if it states none."""
    match = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([mb])(?![a-z])", generator.lower())
    return float(match[1]) / (1 if match[2] == "b" else 1000) if match else None


def caption(rows: Rows) -> str:
    """Say how often each generator is the best of its group."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["prompt"], row["source"], row["mixed_with"]].append(dict(row))
    wins: dict[str, int] = defaultdict(int)
    for group in groups.values():
        wins[max(group, key=lambda row: row["macro"])["generator"]] += 1
    best = max(wins, key=lambda name: (wins[name], name))
    return (
        f"{best} makes the best mixture in {wins[best]} of {len(groups)} groups that share prompt, source and original "
        f"text.{_by_size(rows)} Each point is a mixture, as its distance from the mean of its group; a bar marks the "
        "mean of a generator."
    )


def _by_size(rows: Rows) -> str:
    sized = [(row["size"], row["lead"]) for row in rows if row["size"] is not None]
    correlation = spearman(*map(list, zip(*sized, strict=True))) if len(sized) > 2 else None
    return f" Rank correlation of size and score: {correlation:+.2f}." if correlation is not None else ""


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a row per generator and a mark per prompt."""
    leads: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        leads[row["generator"]].append(row["lead"])
    order = sorted(leads, key=lambda name: -fmean(leads[name]))
    base = alt.Chart(alt.Data(values=list(rows))).encode(y=alt.Y("generator:N", title=None, sort=order))
    x = alt.X("lead:Q", title="macro score minus the mean of its group", axis=alt.Axis(tickCount=6))
    points = base.mark_circle(size=60, opacity=0.5, color=SYNTHETIC).encode(x=x)
    means = base.mark_tick(thickness=3, size=16, color=BASELINE).encode(x="mean(lead):Q")
    return (points + means).properties(width=WIDTH - 200, height=alt.Step(22))


FIGURE = Figure(
    order=66,
    title="Generators",
    question="Does it matter which model rephrases?",
    columns={
        "generator": "generator",
        "prompt": "prompt",
        "source": "source",
        "mixed_with": "mixed with",
        "size": "billions of parameters, from its name",
        "macro": "macro score",
        "lead": "macro score minus the mean of its group",
        "mixture": "mixture",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
