"""Scores of texts that are cheap to compute, against the benchmark scores of the students trained on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from finephrase_dagster.evaluate.benchmark import CATEGORIES
from finephrase_dagster.results.evidence import Entry, Evidence, Generation
from finephrase_dagster.results.figure import MUTED, SYNTHETIC, WIDTH, Figure, Rows, alt

DRAWS = 1_000
LEAST = 8  # datasets; fewer give no interval worth drawing
TITLES = {
    "input_edu_score": "edu score of the source",
    "output_edu_score": "edu score of the output",
    "edu_score_difference": "edu score, output minus source",
    "edu_score_improvement": "edu score, improvement",
    "input_dclm_score": "DCLM score of the source",
    "output_dclm_score": "DCLM score of the output",
    "dclm_score_difference": "DCLM score, output minus source",
    "dclm_score_improvement": "DCLM score, improvement",
    "vendi_score": "Vendi score",
    "g_vendi_score": "G-Vendi score",
    "mean_intra_cos_sim": "mean similarity",
    "compression_ratio": "length of output / source",
    "output_token_count_mean": "tokens of the output",
}


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return Spearman's correlation of each proxy with macro and categories, with its bootstrap interval."""
    pairs = [
        (dataset.proxies, entry.scores)
        for dataset in evidence.datasets
        if dataset.proxies and (entry := _measured_by(dataset, evidence)) is not None
    ]
    found = []
    for proxy, title in TITLES.items():
        for score in ("macro", *CATEGORIES):
            known = [(values[proxy], scores[score]) for values, scores in pairs if proxy in values and score in scores]
            if len(known) < LEAST:
                continue
            correlation, low, high = _spearman([one for one, _ in known], [other for _, other in known])
            if math.isnan(correlation):
                continue
            found.append(
                {
                    "proxy": title,
                    "score": CATEGORIES.get(score, score),
                    "correlation": correlation,
                    "low": low,
                    "high": high,
                    "datasets": len(known),
                }
            )
    return found


def _measured_by(dataset: Generation, evidence: Evidence) -> Entry | None:
    """Return the entry that shows what a dataset is worth: the one it was made for, or one that holds no other."""
    for entry in evidence.entries:
        if entry.mixture == dataset.made_for or (dataset.made_for is None and entry.datasets == (dataset,)):
            return entry
    return None


def _spearman(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Return the rank correlation and its 95 % bootstrap interval over datasets."""
    from scipy.stats import rankdata

    pair = np.array([first, second])
    drawn = np.random.default_rng(0).integers(0, pair.shape[1], size=(DRAWS, pair.shape[1]))
    ranks = rankdata(pair[:, drawn], axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        sample = (ranks[0] * ranks[1]).sum(axis=-1) / np.sqrt(
            (ranks[0] ** 2).sum(axis=-1) * (ranks[1] ** 2).sum(axis=-1)
        )
    whole = rankdata(pair, axis=-1)
    if min(np.ptp(whole, axis=-1)) == 0:
        return math.nan, math.nan, math.nan
    low, high = np.nanquantile(sample, [0.025, 0.975])
    return float(np.corrcoef(whole)[0, 1]), float(low), float(high)


def caption(rows: Rows) -> str:
    """Name the proxy that goes with the macro score most, and those that do not."""
    macro = [row for row in rows if row["score"] == "macro"]
    best = max(macro, key=lambda row: abs(row["correlation"]))
    none = [row["proxy"] for row in macro if row["low"] <= 0 <= row["high"]]
    return (
        f"Rank correlation with the macro score over {best['datasets']} datasets, with 95 % intervals. "
        f"Closest: {best['proxy']} ({best['correlation']:+.2f}). "
        + (f"Not told from 0: {', '.join(none)}. " if none else "")
        + "A proxy never decides: train and measure."
    )


def chart(rows: Rows) -> alt.TopLevelMixin:
    """Draw an interval per proxy for the macro score."""
    macro = sorted((row for row in rows if row["score"] == "macro"), key=lambda row: -row["correlation"])
    base = alt.Chart(alt.Data(values=macro)).encode(
        y=alt.Y("proxy:N", title=None, sort=[row["proxy"] for row in macro])
    )
    x = alt.X("low:Q", title="Spearman's correlation with the macro score", scale=alt.Scale(domain=[-1, 1]))
    bars = base.mark_rule(strokeWidth=2, color=SYNTHETIC, opacity=0.5).encode(x=x, x2="high:Q")
    points = base.mark_circle(size=60, opacity=1, color=SYNTHETIC).encode(x="correlation:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[2, 3], color=MUTED).encode(x="zero:Q")
    return (zero + bars + points).properties(width=WIDTH - 200, height=alt.Step(20))


FIGURE = Figure(
    order=70,
    title="Do cheap proxies predict the result?",
    question="Could a score of the text have told in advance which dataset makes a better student?",
    columns={
        "proxy": "proxy",
        "score": "benchmark score",
        "correlation": "Spearman's correlation",
        "low": "low (95 %)",
        "high": "high (95 %)",
        "datasets": "datasets",
    },
    rows=rows,
    caption=caption,
    chart=chart,
)
