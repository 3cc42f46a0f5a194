"""Source and mix-in: what was rephrased against what it is mixed with."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import fmean
from typing import Any

from finephrase_dagster.results.evidence import Entry, Evidence
from finephrase_dagster.results.figure import DIVERGING, WIDTH, Figure, Rows, alt, cell_words


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the mean score by prompt, source and the text that makes the other half, if a prompt has three of them."""
    groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if len(entry.datasets) == 1 and len(entry.components) <= 2 and len(set(entry.components.values())) == 1:
            others = sorted(set(entry.components) - {_component(entry, evidence)})
            groups[entry.datasets[0].prompt, entry.datasets[0].source, others[0] if others else "nothing"].append(entry)
    found: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "source": source,
            "mixed_with": original,
            "macro": fmean(entry.macro for entry in entries),
            "mixtures": len(entries),
        }
        for (prompt, source, original), entries in sorted(groups.items())
    ]
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in found:
        places[row["prompt"]].add((row["source"], row["mixed_with"]))
    return [row for row in found if len(places[row["prompt"]]) > 2]


def _component(entry: Entry, evidence: Evidence) -> str:
    """Return the component that is the entry's synthetic dataset: the one that fewest mixtures hold."""
    held = Counter(name for other in evidence.entries for name in other.components)
    return min(entry.components, key=lambda name: (name in (entry.first.mix_in or {}), held[name], name))


def caption(rows: Rows) -> str:
    """Compare how far the score moves with the source and with the original text."""
    spread = {field: _spread(rows, field) for field in ("source", "mixed_with")}
    larger = "what it is mixed with" if spread["mixed_with"] >= spread["source"] else "what was rephrased"
    return (
        f"On average the macro score moves by {spread['source']:.4f} with what was rephrased and by "
        f"{spread['mixed_with']:.4f} with what it is mixed with: {larger} matters more here."
    )


def _spread(rows: Rows, field: str) -> float:
    """Return the mean range of the score when a field changes and the others stay."""
    groups: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in ("prompt", "source", "mixed_with") if name != field)].append(row["macro"])
    ranges = [max(group) - min(group) for group in groups.values() if len(group) > 1]
    return fmean(ranges) if ranges else 0.0


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw a grid of sources and original texts for each prompt."""
    values = sorted(row["macro"] for row in rows)
    edges = [values[round((len(values) - 1) * part)] for part in (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)]
    base = alt.Chart().encode(
        x=alt.X("mixed_with:N", title="mixed with", axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("source:N", title="rephrased"),
    )
    scale = alt.Scale(type="threshold", domain=edges, range=list(DIVERGING))
    cells = base.mark_rect().encode(color=alt.Color("macro:Q", legend=None, scale=scale))
    words = cell_words(base, "macro", ".3f", edges)
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    return (
        alt.layer(cells, words, data=alt.Data(values=list(rows)))
        .properties(width=WIDTH // 2 - 110, height=alt.Step(24))
        .facet(alt.Facet("prompt:N", title=None, sort=prompts), columns=2)
    )


FIGURE = Figure(
    order=68,
    title="Source and original text",
    question="Does it matter more what is rephrased, or what it is mixed with?",
    columns={
        "prompt": "prompt",
        "source": "rephrased",
        "mixed_with": "mixed with",
        "macro": "macro score",
        "mixtures": "mixtures",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
