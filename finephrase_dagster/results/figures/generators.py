"""The generators compared: the same prompt and source, another model."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import WIDTH, Figure, Rows

if TYPE_CHECKING:
    import altair as alt


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the score by generator and prompt, where at least two generators made the same kind of mixture."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in evidence.entries:
        if len(entry.datasets) == 1:
            dataset = entry.datasets[0]
            original = tuple(sorted((entry.runs[0].mix_in or {}).items()))
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
    return [row for group in kept for row in group]


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
        "text."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a row per generator and a mark per prompt."""
    import altair as alt

    mean: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        mean[row["generator"]].append(row["macro"])
    order = sorted(mean, key=lambda name: -sum(mean[name]) / len(mean[name]))
    return (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_circle(size=60, opacity=0.8)
        .encode(
            x=alt.X("macro:Q", title="macro score", scale=alt.Scale(zero=False)),
            y=alt.Y("generator:N", title=None, sort=order),
            color=alt.Color("prompt:N", title="prompt", scale=alt.Scale(scheme="tableau20")),
        )
        .properties(width=WIDTH - 260, height=alt.Step(22))
    )


FIGURE = Figure(
    order=66,
    title="Generators",
    question="Does it matter which model rephrases?",
    columns={
        "generator": "generator",
        "prompt": "prompt",
        "source": "source",
        "mixed_with": "mixed with",
        "macro": "macro score",
        "mixture": "mixture",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
