"""Mixtures of the same components in other shares: the score and the epochs by the share of synthetic text."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

from finephrase_dagster.results.evidence import Entry, Evidence
from finephrase_dagster.results.figure import WIDTH, Figure, Rows, alt

LEAST = 3  # shares that make a curve


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the score by synthetic share, for each set of components that was mixed in at least three shares."""
    families: dict[frozenset[str], list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if entry.kind in ("mixed", "synthetic") and entry.components:
            families[frozenset(entry.components)].append(entry)
    found = []
    for components, entries in families.items():
        if len({entry.synthetic for entry in entries}) < LEAST:
            continue
        original = set(entries[0].first.mix_in or ())
        for share in sorted({entry.synthetic or 0.0 for entry in entries}):
            alike = [entry for entry in entries if entry.synthetic == share]
            found.append(
                {
                    "components": " + ".join(sorted(components - original)),
                    "mixed_with": " + ".join(sorted(original)),
                    "synthetic": share,
                    "macro": fmean(run.scores["macro"] for entry in alike for run in entry.runs),
                    "epochs": alike[0].first.epochs,
                    "runs": sum(len(entry.runs) for entry in alike),
                }
            )
    return found


def caption(rows: Rows) -> str:
    """Name the best share of each curve."""
    best: dict[str, Any] = {}
    for row in rows:
        if row["components"] not in best or row["macro"] > best[row["components"]]["macro"]:
            best[row["components"]] = row
    parts = [f"{name} at {row['synthetic']:.0%} ({row['macro']:.4f})" for name, row in best.items()]
    return (
        f"Best share of synthetic text: {', '.join(parts)}. The lower panel shows how often the student saw the text "
        "that was repeated most: a share and its repetition change together here."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw scores above epochs, on one axis of shares."""
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("synthetic:Q", title="share of synthetic text", axis=alt.Axis(format="%", tickCount=10)),
        color=alt.Color("components:N", title=None),
    )
    scores = base.mark_line(point=True).encode(y=alt.Y("macro:Q", title="macro score", scale=alt.Scale(zero=False)))
    epochs = base.mark_line(point=True).encode(y=alt.Y("epochs:Q", title="epochs"))
    return alt.vconcat(scores.properties(width=WIDTH, height=230), epochs.properties(width=WIDTH, height=110))


FIGURE = Figure(
    order=40,
    title="How much synthetic text",
    question="What share of synthetic text is best, and how often is it repeated then?",
    columns={
        "components": "synthetic text",
        "mixed_with": "mixed with",
        "synthetic": "share",
        "macro": "macro score",
        "epochs": "epochs of the text that is repeated most",
        "runs": "runs",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
