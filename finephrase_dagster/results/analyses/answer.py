"""Whether a mixture with rephrased text makes a better student than original text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow, between
from finephrase_dagster.results.arms import REPETITION
from finephrase_dagster.results.verdict import ANSWERING

ANSWERS = {"beats": "yes", "loses": "no", "ties": "no difference that matters", "undecided": "undecided"}
WORDS = {
    "beats": "is above it",
    "loses": "is below it",
    "ties": "makes no difference that matters",
    "undecided": "is undecided",
}


def answer(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return the answer for each student and budget that has mixtures of both kinds, from all that can be compared."""
    groups: dict[tuple[str, int], list[LeaderboardRow]] = {}
    for row in rows:
        if row["against_original"]:
            groups.setdefault((row["student"], row["tokens"]), []).append(row)
    return [
        f"{student}, {'' if tokens is None else f'{tokens:,} tokens'}: {_answer(group)}"
        for (student, tokens), group in groups.items()
    ]


def _answer(group: Sequence[LeaderboardRow]) -> str:
    """Return the answer that mixtures give together; rows come best first."""
    matched = [row for row in group if row["against_original"]["matched"]]
    if not matched:
        verdict = group[0]["against_original"]
        return f"not comparable. The best {_pair(group[0])}, but {'; '.join(verdict['mismatches'])}.{_remedy(verdict)}"
    best, row = matched[0], min(matched, key=lambda one: ANSWERING.index(one["against_original"]["verdict"]))
    verdict = row["against_original"]
    if verdict["interval"] is None:
        return f"undecided. With one seed, the best {_pair(row)}; only further seeds show what is noise."
    which = "The best" if row is best else "A"
    text = f"{ANSWERS[verdict['verdict']]}. {which} {_pair(row)} {_interval(verdict)}."
    if row is not best:
        other = best["against_original"]
        text += f" The highest score, that of {best['mixture']} ({best['score']:.4f}), {WORDS[other['verdict']]} "
        text += f"{_interval(other)}."
    return text


def _remedy(verdict: Mapping[str, Any]) -> str:
    """Return how mixtures become comparable that differ in nothing but repetition; nothing for others."""
    if not all(one.startswith(REPETITION) for one in verdict["mismatches"]):
        return ""
    name, mixture = verdict["baseline"], verdict["mixture"]
    matched = f"{name}_matched: {{from: {name}, match_epochs_of: {mixture}}}"
    return f" Lower 'tokens', or add to 'mixtures': {matched}."


def _pair(row: LeaderboardRow) -> str:
    verdict = row["against_original"]
    return (
        f"mixture with rephrased text, {row['mixture']} ({row['score']:.4f}), is {abs(verdict['difference']):.4f} "
        f"{'ahead of' if (verdict['difference'] > 0) != verdict['lower_is_better'] else 'behind'} the original text "
        f"{verdict['baseline']}"
    )


def _interval(verdict: Mapping[str, Any]) -> str:
    more = verdict["seeds_to_decide"]
    seeds = f"; about {more} more seeds per mixture would decide" if more else ""
    return f"(95 % interval {between(verdict['interval'])}{seeds})"


ANALYSIS = Analysis(title="Does rephrased text beat the original text alone?", lines=answer)
