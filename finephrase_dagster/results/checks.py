"""Checks of a study by itself: A/A pairs, which must come out alike, and negative controls, which must lose.

An arm that checks the study is no candidate: it is not ranked, and it is compared with the arm that it is made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finephrase_dagster.results.arms import Arm
from finephrase_dagster.results.verdict import Verdict, compare_arms

PAIR, CONTROL = "A/A pair", "negative control"


@dataclass(frozen=True, kw_only=True)
class ArmCheck:
    """What an arm shows about its study.

    Attributes:
        kind: `PAIR` or `CONTROL`.
        verdict: on the arm, against the one that it is made from.
        passed: whether the pair came out alike, or the control lost; None if nothing says what is noise, or if the two
            arms do not match.
    """

    kind: str
    verdict: Verdict
    passed: bool | None

    @property
    def text(self) -> str:
        """The result in one sentence."""
        verdict, arm, origin = self.verdict, self.verdict.arm.mixture, self.verdict.baseline.mixture
        what = (
            f"{arm} repeats {origin} with other seeds"
            if self.kind == PAIR
            else f"{arm} is {origin} with shuffled words"
        )
        start = f"{self.kind}, {verdict.arm.student}: {what}"
        if verdict.mismatches:
            return f"{start}, but they do not match ({'; '.join(verdict.mismatches)})."
        if verdict.difference is None or verdict.interval is None:
            return f"{start}. Nothing says what is noise: give the study a second seed."
        low, high = verdict.interval
        found = f"{start}. Difference {verdict.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        if self.kind == PAIR:
            return f"{found}: " + (
                "not called different, as it should be."
                if self.passed
                else "called different, although nothing but seeds differs. This happens to one pair in 20 by chance; "
                "otherwise noise is larger than this study knows, and its other verdicts are too sure."
            )
        return f"{found}: " + (
            "it loses, so the study can see that a dataset is bad."
            if self.passed
            else "it does not lose, so the study cannot see that a dataset is bad, and its other verdicts are doubtful."
            " Train longer, with a larger student or more seeds, or evaluate more items."
        )

    def as_json(self) -> dict[str, Any]:
        """Return the check as `finephrase results compare --json` lists it: a verdict with the outcome of the check."""
        return {**self.verdict.as_json(), "check": self.kind, "passed": self.passed, "text": self.text}


def check_arms(every: Sequence[Arm], metric: str = "macro") -> list[ArmCheck]:
    """Return the check of each arm that is an A/A pair's second arm or a negative control, if its origin has scores."""
    checks = []
    for arm in every:
        for base in every:
            alike = [(one.first.study, one.student, one.first.decay_from) for one in (arm, base)]
            if base.mixture == arm.origin and alike[0] == alike[1]:
                (verdict,) = compare_arms([(base, arm)], every, metric=metric)
                kind = PAIR if arm.first.replicate_of else CONTROL
                passed = verdict.verdict in (("ties", "undecided") if kind == PAIR else ("loses",))
                known = verdict.interval is not None and not verdict.mismatches
                checks.append(ArmCheck(kind=kind, verdict=verdict, passed=passed if known else None))
    return checks
