"""Whether a mixture with rephrased text makes a better student than original text alone."""

from __future__ import annotations

from collections.abc import Sequence

from finephrase_dagster.results.analysis import Analysis, EarlyStep, LeaderboardRow

ANSWERS = {"beats": "yes", "loses": "no", "ties": "no difference that matters", "undecided": "undecided"}


def answer(rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep]) -> list[str]:
    """Return one sentence per student and budget that has mixtures of both kinds: on the best that can be compared."""
    best: dict[tuple[str, int], LeaderboardRow] = {}
    for row in rows:
        if against := row["against_original"]:
            known = best.setdefault((row["student"], row["tokens"]), row)
            if against["matched"] and not known["against_original"]["matched"]:
                best[row["student"], row["tokens"]] = row
    return [
        f"{student}, {'' if tokens is None else f'{tokens:,} tokens'}: {_sentence(row)}"
        for (student, tokens), row in best.items()
    ]


def _sentence(row: LeaderboardRow) -> str:
    verdict = row["against_original"]
    difference, interval = verdict["difference"], verdict["interval"]
    pair = (
        f"the best mixture with rephrased text, {row['mixture']} ({row['score']:.4f}), is {abs(difference):.4f} "
        f"{'ahead of' if (difference > 0) != verdict['lower_is_better'] else 'behind'} the original text "
        f"{verdict['baseline']}"
    )
    if not verdict["matched"]:
        return f"not comparable. {pair[0].upper()}{pair[1:]}, but {'; '.join(verdict['mismatches'])}."
    if interval is None:
        return f"undecided. With one seed, {pair}; only further seeds show what is noise."
    more = verdict["seeds_to_decide"]
    seeds = f"; about {more} more seeds per mixture would decide" if more else ""
    return (
        f"{ANSWERS[verdict['verdict']]}. {pair[0].upper()}{pair[1:]} (95 % interval {interval[0]:+.4f} to "
        f"{interval[1]:+.4f}){seeds}."
    )


ANALYSIS = Analysis(title="Does rephrased text beat the original text alone?", lines=answer)
