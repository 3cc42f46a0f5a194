"""Whether a mixture with rephrased text makes a better student than original text alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow
from finephrase_dagster.results.comparison import Z


def answer(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return one sentence per student and budget that has mixtures of both kinds."""
    groups: dict[tuple[str, int], list[LeaderboardRow]] = {}
    for row in rows:
        if row["macro"] is not None and row["decay_from"] is None:
            groups.setdefault((row["student"], row["tokens"]), []).append(row)
    lines = []
    for (student, tokens), group in groups.items():
        original = [row for row in group if _is_original(row)]
        rephrased = [row for row in group if not _is_original(row)]
        if original and rephrased:
            lines.append(f"{student}, {tokens:,} tokens: {_sentence(rephrased[0], original[0])}")
    return lines


def _is_original(row: LeaderboardRow) -> bool:
    return math.isclose(sum(row["mix_in"].values()), 1, abs_tol=1e-4)


def _sentence(rephrased: LeaderboardRow, original: LeaderboardRow) -> str:
    difference, noise = rephrased["macro"] - original["macro"], rephrased["noise"]
    pair = (
        f"the best mixture with rephrased text, {rephrased['mixture']} ({rephrased['macro']:.4f}), is "
        f"{abs(difference):.4f} {'ahead of' if difference > 0 else 'behind'} the best original text, "
        f"{original['mixture']} ({original['macro']:.4f})"
    )
    if noise is None:
        return f"undecided. With one seed, {pair}; only further seeds show what is noise."
    limit = Z * noise * math.sqrt(1 / rephrased["seeds"] + 1 / original["seeds"])
    if abs(difference) <= limit:
        return f"undecided. {pair[0].upper()}{pair[1:]}; seeds alone explain up to {limit:.4f}."
    verdict = "yes" if difference > 0 else "no"
    return f"{verdict}. {pair[0].upper()}{pair[1:]}; seeds alone explain only {limit:.4f}."


ANALYSIS = Analysis(title="Does rephrased text beat the original text alone?", lines=answer)
