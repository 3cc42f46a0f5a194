"""Verdicts: whether a mixture beats a baseline, loses to it, ties with it, or what would decide.

The student is the replicate: the interval of a difference comes from the variance over seeds (`noise.py`) and, where
the scores of items are known, from the variance over items (`items.py`). Intervals and p-values hold for all
comparisons of a question together (`multiplicity.py`). Arms that differ in more than their data are flagged and not
ranked (`arms.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.categories import partial_words, task_weights
from finephrase_dagster.evaluate.metric import BITS, LAST, LAST_NAME, Metric
from finephrase_dagster.results.analysis import Question
from finephrase_dagster.results.arms import Arm, arms, mismatches, unknowns
from finephrase_dagster.results.decision import Decision, seeds_to_decide
from finephrase_dagster.results.items import Values, item_variance, read_items
from finephrase_dagster.results.multiplicity import adjusted, loading
from finephrase_dagster.results.noise import Noise, Replicates, noise_of, pool_of, published_spread
from finephrase_dagster.results.scored_runs import ScoredRun

RULE = "4"
"""Changes whenever the same scores may get another verdict."""
SMALLEST_SHARE = 0.03
"""The smallest difference of interest, as a share of the baseline's score."""
NO_NOISE = "unknown: no mixture of this student has a second seed, and this score of such a student was not published"

Word = Literal["beats", "loses", "ties", "undecided"]
ANSWERING: tuple[Word, ...] = ("beats", "undecided", "ties", "loses")
"""The verdicts on a study's mixtures, the one first that answers whether any of them beats the baseline: yes if one
does, no only if all lose. Their intervals hold for all comparisons together, so looking at all of them is allowed."""
Interval = tuple[float, float]


class NotComparable(FinephraseError, exit_status=2):
    """There is no such baseline or metric."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The comparison of one mixture with a baseline.

    Attributes:
        baseline: the arm that it is compared with.
        arm: the mixture's arm.
        metric: what they are compared by; `beats` means more of it, or less of it for bits per byte.
        difference: the mixture's mean score minus the baseline's; None if one has no score.
        interval: of the difference, at 95 % for all comparisons of the question together; None without noise.
        single_interval: of the difference, at 95 % for this comparison alone; None without noise.
        p_value: for all comparisons of the question together; None without noise.
        noise: of the seeds; None if it is unknown.
        item_variance: of the difference over benchmark items; None if their scores are unknown.
        mismatches: in what the arms differ apart from their data; a pair with mismatches is not ranked.
        unknown: what could not be checked.
        smallest: the smallest difference of interest.
        decision: how many more seeds per mixture would probably decide; None if decided or unknown.
    """

    baseline: Arm
    arm: Arm
    metric: str
    verdict: Word
    difference: float | None
    interval: Interval | None
    single_interval: Interval | None
    p_value: float | None
    noise: Noise | None
    item_variance: float | None
    mismatches: tuple[str, ...]
    unknown: tuple[str, ...]
    smallest: float | None
    decision: Decision | None
    question: Question = "baseline"

    @property
    def fingerprint(self) -> str:
        """A hash of the scores that the verdict is drawn from."""
        runs = (*self.baseline.runs, *self.arm.runs)
        scores = sorted(f"{run.study} {run.run} {run.fingerprint}" for run in runs)
        return fingerprint([*scores, *self.arm.first.held_out])[:SHORT]

    @property
    def baseline_name(self) -> str:
        """The baseline's mixture; with its study, if that is another one."""
        study = self.baseline.first.study
        return self.baseline.mixture if study == self.arm.first.study else f"{study}: {self.baseline.mixture}"

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as `finephrase results compare --json` lists it."""
        noise = self.noise
        return {
            "mixture": self.arm.mixture,
            "baseline": self.baseline_name,
            "student": self.arm.student,
            "decay_from": self.arm.first.decay_from,
            "metric": self.metric,
            "lower_is_better": Metric.read(self.metric).sign < 0,
            "verdict": self.verdict,
            "difference": self.difference,
            "interval": self.interval and list(self.interval),
            "single_interval": self.single_interval and list(self.single_interval),
            "p_value": self.p_value,
            "noise": {
                "sd": noise and noise.sd,
                "degrees_of_freedom": noise and noise.degrees_of_freedom,
                "source": noise.source if noise else NO_NOISE,
            },
            "parts": {
                "seeds_sd": noise and noise.variance**0.5,
                "items_sd": None if self.item_variance is None else self.item_variance**0.5,
            },
            "seeds": {
                "baseline": self.baseline.replicates(self.metric).seeds,
                "mixture": self.arm.replicates(self.metric).seeds,
            },
            "partial": partial_words(self.arm.first.unscored) or None,
            "matched": not self.mismatches,
            "mismatches": list(self.mismatches),
            "unknown": list(self.unknown),
            "smallest_difference": self.smallest,
            "seeds_to_decide": self.decision and self.decision.seeds,
            "chance_to_decide": self.decision and self.decision.chance,
            "question": self.question,
            "rule": RULE,
            "inputs": self.fingerprint,
        }


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A comparison before it is adjusted for the others."""

    baseline: Arm
    arm: Arm
    first: Replicates
    second: Replicates
    noise: Noise | None
    items: tuple[float, int] | None
    mismatches: tuple[str, ...]
    others: tuple[int, float]

    @property
    def ranked(self) -> bool:
        return self.noise is not None and not self.mismatches

    @property
    def difference(self) -> float | None:
        return self.second.mean - self.first.mean if self.first and self.second else None

    @property
    def variance(self) -> float:
        assert self.noise
        return self.noise.variance + (self.items[0] if self.items else 0.0)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the variance over seeds and items, rounded so that alike pairs share a bound."""
        assert self.noise
        terms = [(self.noise.variance, self.noise.degrees_of_freedom)]
        if self.items:
            terms.append((self.items[0], self.items[1] - 1))
        return round(self.variance**2 / sum(term**2 / freedom for term, freedom in terms), 1)

    @property
    def statistic(self) -> float:
        assert self.difference is not None
        return self.difference / self.variance**0.5


def compare(
    runs: Iterable[ScoredRun],
    baseline: str,
    *,
    metric: str = "macro",
    student: str | None = None,
    question: Question = "baseline",
) -> list[Verdict]:
    """Return the verdict on each mixture against a baseline, for each student that the baseline trained.

    Arms of A/A pairs and controls are left out: `checks.check_arms` compares them with what they are made from.

    Args:
        metric: a score, as `evaluate/metric.py` names it.
        student: compares only the mixtures of this student; default: of all students.
        question: what is asked, which decides how the number of comparisons counts: all mixtures against this baseline,
            all pairs, or exploration, where a share of 5 % of the findings may be false.

    Raises:
        NotComparable: there is no such baseline, student or metric; the message lists what there is.
    """
    every = [arm for arm in arms(runs) if student in (None, arm.student)]
    bases = [arm for arm in every if arm.mixture == baseline and arm.first.decay_from is None]
    metric = str(Metric.read(metric))
    _check(baseline, metric, student, every, bases)
    candidates = [arm for arm in every if arm.origin is None]
    pairs = [(base, arm) for base in bases for arm in candidates if arm.student == base.student and arm is not base]
    return compare_arms(pairs, every, metric=metric, question=question)


def compare_arms(
    pairs: Sequence[tuple[Arm, Arm]], every: Sequence[Arm], *, metric: str = "macro", question: Question = "baseline"
) -> list[Verdict]:
    """Return the verdict on the second arm of each pair against the first one; see `compare`.

    Args:
        every: the arms that the noise of their students is taken from.
    """
    score = Metric.read(metric)
    measure = BITS if score.bits else "prob_norm_token"
    items = cache(lambda arm: read_items([file for run in arm.runs for file in run.sample_files(score)], measure))
    compared = [_pair(base, arm, metric, every, items) for base, arm in pairs]
    family = [pair for pair in compared if pair.ranked]
    loadings: dict[int, list[float]] = {}
    for pair in family:
        loadings.setdefault(id(pair.baseline), []).append(_loading(pair))
    statistics, freedoms = [pair.statistic for pair in family], [pair.freedom for pair in family]
    adjustments = adjusted(question, statistics, freedoms, tuple(map(tuple, loadings.values())), len(family) + 1)
    by_pair = {id(pair): (p, factor) for pair, p, factor in zip(family, *adjustments, strict=True)}
    return [_verdict(pair, by_pair.get(id(pair)), len(family), metric, question) for pair in compared]


def _check(baseline: str, metric: str, student: str | None, every: Sequence[Arm], bases: Sequence[Arm]) -> None:
    if student and not every:
        raise NotComparable(f"no run has the student {student!r}")
    mixtures = sorted({arm.mixture for arm in every})
    if not every:
        raise NotComparable("there are no scores to compare yet. Run: finephrase materialize")
    if not bases:
        near = get_close_matches(baseline, mixtures, 3) or mixtures[:5]
        raise NotComparable(f"there are no scores of a mixture {baseline!r}. Name another one: {', '.join(near)}")
    check_metric(metric, (run for arm in every for run in arm.runs))


def check_metric(metric: str, runs: Iterable[ScoredRun]) -> None:
    """Check that some run has a score.

    Raises:
        NotComparable: none has; the message says why.
    """
    known, score = {name for run in runs for name in run.scores}, Metric.read(metric)
    if metric in known:
        return
    if score.bits and not any(Metric.read(name).bits for name in known):
        reason = "Published scores have no bits per byte; those of your own study get them from: finephrase materialize"
    elif score.averaged and str(Metric(score.name, score.bits)) in known:
        reason = f"No run was evaluated at {LAST} checkpoints. Set evaluation.every, or leave out {LAST_NAME}"
    else:
        names = ", ".join(sorted(name for name in known if "/" not in name))
        reason = f"Choose from {names}; each may be followed by /{BITS}, /{LAST_NAME} or both"
    raise NotComparable(f"there are no scores {metric!r}. {reason}")


def _pair(base: Arm, arm: Arm, metric: str, every: Sequence[Arm], items: Any) -> _Pair:
    """Return the comparison of two arms, with the noise of their student."""
    samples = {id(one): one.replicates(metric) for one in every if one.student in (base.student, arm.student)}
    pool = list(samples.values())
    first, second = samples[id(base)], samples[id(arm)]
    noise = None
    if first and second:
        spread = published_spread(base.student, base.first.parameters, metric, base.first.uncounted)
        studies = base.first.study, arm.first.study
        scope = "this study" if studies[0] == studies[1] else " and ".join(studies)
        noise = noise_of(first, second, pool, spread, scope)
    return _Pair(
        baseline=base,
        arm=arm,
        first=first,
        second=second,
        noise=noise,
        items=_items(base, arm, metric, items) if noise else None,
        mismatches=tuple(mismatches(base, arm)),
        others=pool_of([sample for sample in pool if sample is not first and sample is not second]),
    )


def _items(base: Arm, arm: Arm, metric: str, items: Any) -> tuple[float, int] | None:
    if any(run.samples is None for run in (*base.runs, *arm.runs)):
        return None
    first: Values | None = items(base)
    second: Values | None = items(arm)
    weights = task_weights(Metric.read(metric).name, base.first.uncounted)
    return item_variance(first, second, weights) if first and second else None


def _loading(pair: _Pair) -> float:
    assert pair.noise
    return loading(pair.noise.seeds, pair.noise.variance / pair.variance, estimated=pair.noise.estimated)


def _verdict(
    pair: _Pair, adjustment: tuple[float, float] | None, comparisons: int, metric: str, question: Question
) -> Verdict:
    difference, smallest = pair.difference, SMALLEST_SHARE * abs(pair.first.mean) if pair.first else None
    word: Word = "undecided"
    interval = alone = p_value = None
    if pair.noise and difference is not None:
        single_p, single = _alone(pair)
        p_value, factor = adjustment or (single_p, single)
        interval, alone = (
            (difference - width, difference + width)
            for width in (factor * pair.variance**0.5, single * pair.variance**0.5)
        )
    if adjustment and interval and smallest is not None:
        word = _word(interval, smallest, Metric.read(metric).sign)
    more = None
    if word == "undecided" and pair.ranked and difference is not None and smallest is not None:
        assert pair.noise
        more = seeds_to_decide(
            difference,
            pair.noise,
            others=pair.others,
            comparisons=comparisons,
            smallest=smallest,
            items=pair.items[0] if pair.items else 0.0,
        )
    return Verdict(
        baseline=pair.baseline,
        arm=pair.arm,
        metric=metric,
        verdict=word,
        difference=difference,
        interval=interval,
        single_interval=alone,
        p_value=p_value,
        noise=pair.noise,
        item_variance=pair.items[0] if pair.items else None,
        mismatches=pair.mismatches,
        unknown=tuple(unknowns(pair.baseline, pair.arm)),
        smallest=smallest,
        decision=more,
        question=question,
    )


def _alone(pair: _Pair) -> tuple[float, float]:
    """Return the p-value of a comparison by itself, and the factor of its standard error."""
    (p_value,), (factor,) = adjusted("exploration", [pair.statistic], [pair.freedom], (), 2)
    return p_value, factor


def _word(interval: Interval, smallest: float, sign: int) -> Word:
    low, high = interval if sign > 0 else (-interval[1], -interval[0])
    if low > 0 or high < 0:
        return "beats" if low > 0 else "loses"
    return "ties" if -smallest < low and high < smallest else "undecided"
