"""Proposals: which mixtures to train next, what they may gain, and whether the study's seeds would show it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
import scipy  # whose parts are imported when they are first used
import yaml

from finephrase_dagster.results.decision import Outlook
from finephrase_dagster.results.evidence import Entry, Evidence, NoEvidence, most_common
from finephrase_dagster.results.noise import Replicates, noise_of_one, pool_of, published_spread
from finephrase_dagster.results.surrogate import Array, Observation, Surrogate, Weights

FEWEST = 3
"""Mixtures with scores from which a surrogate can learn."""
MOST_COMPONENTS, MOST_PARTS = 6, 3
"""Components that proposals are made of, those of the best mixtures, and how many of them one proposal mixes."""
MOST_CANDIDATES = 2000
QUANTILES = (np.arange(200) + 0.5) / 200


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A mixture that may be worth training.

    Attributes:
        score: the expected macro score, with its 95 % `interval`.
        expected_gain: how much better than the best so far the better of the two is, on average.
        chance_better: that its true score is higher than that of the best so far.
        chance_visible: that it beats the best so far by the rule of verdicts, with the seeds of the study.
    """

    name: str
    weights: Weights
    score: float
    interval: tuple[float, float]
    expected_gain: float
    chance_better: float
    chance_visible: float


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """The next mixtures of a study.

    Attributes:
        best: the mixture with the highest expected score so far, which is `best_score`.
        seeds: the seeds that a new mixture is assumed to get: those that most mixtures have.
        noise: the standard deviation of one seed, with its `noise_source`.
        surrogate: what the scores are expected from.
        proposals: the most promising first; each later one is chosen as if the earlier ones had been trained.
    """

    best: str
    best_score: float
    seeds: int
    noise: float
    noise_source: str
    surrogate: Surrogate
    proposals: tuple[Proposal, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the proposals as `finephrase results propose --json` prints them."""
        names = ("best", "best_score", "seeds", "noise", "noise_source")
        return {name: getattr(self, name) for name in names} | {
            "mixtures_scored": len(self.surrogate.scores),
            "proposals": [asdict(one) for one in self.proposals],
        }

    def as_yaml(self, tokens: int | None) -> str:
        """Return the proposals as lines for the section `mixtures` of a study file."""
        fields = {
            one.name: {"components": dict(one.weights)} | ({"tokens": tokens} if tokens else {})
            for one in self.proposals
        }
        text = yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=1000)
        return "".join(f"  {line}\n" for line in text.splitlines())


def propose(
    evidence: Evidence,
    *,
    count: int = 3,
    candidates: Mapping[str, Weights] | None = None,
    taken: Collection[str] = (),
) -> Proposals:
    """Return the mixtures that a study should train next, by their expected improvement over the best so far.

    Args:
        candidates: the mixtures to choose from, by name; by default a grid over the components of the best ones.
        taken: names that proposals must not have.

    Raises:
        NoEvidence: too few mixtures are scored, they have no components in common, or the noise is unknown.
    """
    entries = [entry for entry in evidence.entries if entry.components]
    pool = [entry.replicates("macro") for entry in entries]
    sd, source = _noise(evidence, entries)
    learned = [*entries, *(entry for entry in evidence.unfinished if entry.components)]
    surrogate = Surrogate.fit([_observation(entry) for entry in learned], sd**2)
    known = [entry.components for entry in entries]
    names, weights = _candidates(entries, candidates, {*taken, *(entry.mixture for entry in evidence.entries)})
    mean, covariance = surrogate.predict([*known, *weights])
    best = int(np.argmax(mean[: len(known)]))
    seeds = most_common(len(entry.runs) for entry in entries)
    freedom, _ = pool_of([sample for index, sample in enumerate(pool) if index != best])
    items = [one.item_variance for one in evidence.verdicts if one.item_variance is not None]
    outlook = Outlook.of(
        (sd**2, sd**2),
        (pool[best].seeds, seeds),
        (freedom, sd**2),
        count,
        items=median(items) if items else 0.0,
    )
    chosen = _choose(mean, covariance, best, len(known), min(count, len(weights)), sd**2 / seeds)
    return Proposals(
        best=entries[best].mixture,
        best_score=float(mean[best]),
        seeds=seeds,
        noise=sd,
        noise_source=source,
        surrogate=surrogate,
        proposals=tuple(
            Proposal(
                name=name,
                weights=weights[index - len(known)],
                score=float(mean[index]),
                interval=_interval(mean[index], covariance[index, index]),
                **_chances(*_difference(mean, covariance, index, best), outlook),
            )
            for index, name in zip(chosen, names([index - len(known) for index in chosen]), strict=True)
        ),
    )


def _noise(evidence: Evidence, entries: list[Entry]) -> tuple[float, str]:
    """Return the standard deviation of one seed and its source, after checking that the scores suffice."""
    study, student = evidence.study, evidence.student
    if len(entries) < FEWEST:
        raise NoEvidence(
            f"the study {study} has {len(entries)} scored mixtures of known components with the student {student}; "
            f"proposals need {FEWEST}. Train more mixtures, or name another student with --student"
        )
    used = [name for entry in entries for name in entry.components]
    if len(used) == len(set(used)):
        raise NoEvidence(
            f"no two scored mixtures of the study {study} have a component in common, so nothing can be learned from "
            "one about another. Train two mixtures that share a component"
        )
    spread = published_spread(student, evidence.parameters, "macro", entries[0].first.uncounted)
    noise = noise_of_one(Replicates((0.0,)), [entry.replicates("macro") for entry in entries], spread)
    if noise is None or not noise[0]:
        raise NoEvidence(
            f"the noise of seeds is unknown for the student {student} of the study {study}: no mixture has a second "
            "seed, and no student of this size was published. Train some mixture with another seed"
        )
    return noise[0], noise[2]


def _observation(entry: Entry) -> Observation:
    return Observation(weights=entry.components, curve=entry.curve(), runs=len(entry.runs))


def _candidates(
    entries: list[Entry], given: Mapping[str, Weights] | None, taken: set[str]
) -> tuple[Callable[[list[int]], list[str]], list[Weights]]:
    """Return the mixtures to choose from that are not scored yet, and a function that names some of them."""
    seen = {_rounded(entry.components) for entry in entries}
    if given is not None:
        new = {name: weights for name, weights in given.items() if _rounded(weights) not in seen}
        if not new:
            raise NoEvidence("all candidates have scores already; name others")
        listed = list(new)[:MOST_CANDIDATES]
        return lambda indices: [listed[index] for index in indices], [new[name] for name in listed]
    components = list(
        dict.fromkeys(name for entry in entries if not entry.first.despite_audits for name in entry.components)
    )[:MOST_COMPONENTS]
    grid: list[Weights] = [weights for weights in simplex(components) if _rounded(weights) not in seen]
    free = (name for number in range(1, 10_000) if (name := f"proposal_{number}") not in taken)
    return lambda indices: [next(free) for _ in indices], grid


def simplex(components: list[str]) -> Iterator[dict[str, float]]:
    """Yield mixtures of up to three of some components: shares in steps of 5 % for two components, of 10 % for more."""
    steps = 20 if len(components) <= 2 else 10
    for parts in range(1, MOST_PARTS + 1):
        for names in combinations(components, parts):
            for bars in combinations(range(1, steps), parts - 1):
                shares = np.diff([0, *bars, steps]) / steps
                yield {name: round(float(share), 3) for name, share in zip(names, shares, strict=True)}


def _rounded(weights: Weights) -> frozenset[tuple[str, float]]:
    total = sum(weights.values())
    return frozenset((name, round(weight / total, 3)) for name, weight in weights.items() if weight)


def _choose(mean: Array, covariance: Array, best: int, known: int, count: int, noise: float) -> list[int]:
    """Return the candidates with the largest expected improvement, each as if the earlier ones scored as expected."""
    chosen: list[int] = []
    for _ in range(count):
        gains = _expected_gain(mean - mean[best], _variances(covariance, best))
        gains[[*range(known), *chosen]] = -1
        pick = int(np.argmax(gains))
        chosen.append(pick)
        covariance = covariance - np.outer(covariance[pick], covariance[pick]) / (covariance[pick, pick] + noise)
        best = pick if mean[pick] > mean[best] else best
    return chosen


def _variances(covariance: Array, best: int) -> Array:
    """Return the variance of each difference to the best."""
    return np.maximum(1e-18, np.diag(covariance) + covariance[best, best] - 2 * covariance[best])


def _difference(mean: Array, covariance: Array, index: int, best: int) -> tuple[float, float]:
    return float(mean[index] - mean[best]), float(_variances(covariance, best)[index] ** 0.5)


def _expected_gain(difference: Any, variance: Any) -> Any:
    sd = np.sqrt(variance)
    density = np.exp(-(difference**2) / (2 * variance)) / np.sqrt(2 * np.pi)
    return difference * scipy.special.ndtr(difference / sd) + sd * density


def _chances(difference: float, sd: float, outlook: Outlook) -> dict[str, float]:
    gains = difference + sd * scipy.special.ndtri(QUANTILES)
    visible = [outlook.chance_of_difference(gain) for gain in gains if gain > 0]
    return {
        "expected_gain": float(_expected_gain(difference, sd**2)),
        "chance_better": float(scipy.special.ndtr(difference / sd)),
        "chance_visible": sum(visible) / len(QUANTILES),
    }


def _interval(mean: float, variance: float) -> tuple[float, float]:
    width = float(scipy.special.ndtri(0.975)) * max(0.0, float(variance)) ** 0.5
    return float(mean) - width, float(mean) + width
