"""What a study concludes, in sentences: the best recipe, by how much, how sure, at what cost, and what it gave up."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from finephrase_dagster.evaluate.benchmark import CATEGORIES
from finephrase_dagster.evaluate.categories import partial_words
from finephrase_dagster.results.analysis import between
from finephrase_dagster.results.evidence import Entry, Evidence
from finephrase_dagster.results.figure import as_number, as_score
from finephrase_dagster.results.robustness import candidates, choice, other_scores
from finephrase_dagster.results.verdict import Verdict

ANSWERS = {"beats": "Yes", "loses": "No", "ties": "It makes no difference", "undecided": "Undecided"}

WORDS = {
    "beats": "beats",
    "loses": "loses to",
    "ties": "ties with",
    "undecided": "differs, within the noise, from",
}


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The answer of a study.

    Attributes:
        word: the verdict that answers whether a mixture beats the baseline; None: none can be compared with it.
        answer: the answer in one sentence.
        remarks: how sure it is, what it costs, what it gave up, and what was not compared.
    """

    word: str | None
    answer: str
    remarks: tuple[str, ...]


def conclude(evidence: Evidence) -> Conclusion:
    """Compare the mixtures that hold synthetic text with the baseline: yes if any of them beats it."""
    best = choice(evidence)
    if best is None:
        return Conclusion(
            word=None,
            answer=f"No mixture can be compared with {evidence.baseline.mixture}.",
            remarks=(*_partial(evidence), *_checks(evidence), *_gates(evidence), *_uncompared(evidence)),
        )
    compared = sum(not verdict.mismatches and verdict.difference is not None for verdict in evidence.verdicts)
    entry = evidence.entry(best.arm.mixture)
    remarks = (
        *_certainty(best, compared),
        *_highest(best, evidence),
        *_partial(evidence),
        *_checks(evidence),
        *_gates(evidence),
        _cost(entry),
        _given_up(entry, evidence.baseline),
        *_held_out(evidence),
        *_uncompared(evidence),
    )
    return Conclusion(word=best.verdict, answer=_answer(best, entry, evidence), remarks=remarks)


def _answer(verdict: Verdict, entry: Entry, evidence: Evidence) -> str:
    baseline, difference = evidence.baseline, verdict.difference or 0.0
    side = "ahead of" if difference >= 0 else "behind"
    which = "The best" if verdict is candidates(evidence)[0] else "One"
    return (
        f"{ANSWERS[verdict.verdict]}. {which} comparable mixture, {entry.mixture}, has a macro score of "
        f"{entry.macro:.4f}: {abs(difference):.4f} {side} the baseline, {baseline.mixture} ({baseline.macro:.4f})."
    )


def _certainty(verdict: Verdict, comparisons: int) -> list[str]:
    if verdict.interval is None or verdict.noise is None:
        return ["How sure: unknown. No mixture has a second seed, so nothing says which differences are noise."]
    lines = [
        f"How sure: the difference lies in the interval {between(verdict.interval)} (95 % for all {comparisons} "
        "comparisons with this baseline together). "
        f"Noise of seeds: {as_score(verdict.noise.sd)}, {verdict.noise.source}."
    ]
    if verdict.decision:
        lines.append(f"What would decide: probably {verdict.decision.seeds} more seeds for each of the two mixtures.")
    return lines


def _highest(chosen: Verdict, evidence: Evidence) -> list[str]:
    """State the verdict on the mixture with the highest score, if the answer rests on another one."""
    best = candidates(evidence)[0]
    if best is chosen or best.interval is None:
        return []
    return [
        f"The highest comparable score is that of {best.arm.mixture} ({evidence.entry(best.arm.mixture).macro:.4f}), "
        f"which {WORDS[best.verdict]} the baseline: the difference lies in the interval {between(best.interval)}."
    ]


def _checks(evidence: Evidence) -> list[str]:
    return [f"Check by {check.text}" for check in evidence.checks]


def _gates(evidence: Evidence) -> list[str]:
    """Say which gates that do not block the text of the mixtures failed."""
    warnings = evidence.gate_warnings
    if not warnings:
        return []
    if len(warnings) == 1:
        return [f"Gates that do not block failed on {warnings[0]}. Read more: {warnings[0].page}"]
    gates = Counter(gate for warning in warnings for gate in warning.failed)
    counts = ", ".join(f"{gate} on {count}" for gate, count in gates.most_common())
    return [
        f"Gates that do not block failed on {len(warnings)} datasets: {counts}. See: finephrase results leaderboard."
    ]


def _partial(evidence: Evidence) -> list[str]:
    words = partial_words(evidence.baseline.first.unscored)
    return [f"Scores are {words}"] if words else []


def _cost(entry: Entry) -> str:
    hours = [dataset.gpu_hours for dataset in entry.datasets]
    if not entry.datasets or None in hours:
        return "Cost: unknown, since the cost of its synthetic text is not recorded."
    tokens = sum(dataset.tokens for dataset in entry.datasets)
    total = math.fsum(value for value in hours if value is not None)
    return f"Cost: {as_number(total)} GPU-hours for {tokens:,} tokens of synthetic text."


def _given_up(entry: Entry, baseline: Entry) -> str:
    lost = {
        title: entry.scores[name] - baseline.scores[name]
        for name, title in CATEGORIES.items()
        if name in entry.scores and name in baseline.scores and entry.scores[name] < baseline.scores[name]
    }
    if not lost:
        return "What it gave up: no category scores lower than with the baseline."
    parts = ", ".join(f"{title} ({loss:+.4f})" for title, loss in sorted(lost.items(), key=lambda item: item[1]))
    return f"What it gave up: {parts}."


def _held_out(evidence: Evidence) -> list[str]:
    """Say whether the choice holds on the tasks that did not choose."""
    for one in other_scores(evidence):
        if str(one.metric) == "held_out" and one.verdict.difference is not None:
            tasks = ", ".join(one.verdict.arm.first.held_out)
            holds = "holds" if one.held else "does not hold"
            return [
                f"Held-out tasks ({tasks}), which did not choose it: the choice {holds}. It "
                f"{WORDS[one.verdict.verdict]} the baseline by {one.verdict.difference:+.4f}, and is number {one.rank} "
                "of all mixtures."
            ]
    return []


def _uncompared(evidence: Evidence) -> list[str]:
    """Say which mixtures differ in more than their data, and which runs were left out."""
    lines = []
    unmatched = [verdict for verdict in evidence.verdicts if verdict.mismatches]
    if unmatched:
        best = max(unmatched, key=lambda verdict: evidence.entry(verdict.arm.mixture).macro)
        named = (
            f"{best.arm.mixture} ({evidence.entry(best.arm.mixture).macro:.4f}; {'; '.join(best.mismatches)}), which "
            f"{'differs' if len(unmatched) == 1 else 'differ'} from the baseline in more than the synthetic text"
        )
        others = "" if len(unmatched) == 1 else f"{len(unmatched)} mixtures, the highest of them "
        lines.append(f"Not compared: {others}{named}.")
    if evidence.left_out:
        lines.append(f"Left out, because they trained for another number of tokens: {', '.join(evidence.left_out)}.")
    return lines
