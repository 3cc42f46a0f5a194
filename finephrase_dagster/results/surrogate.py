"""A surrogate: the scores that mixtures would have, with their uncertainty, by a Gaussian process over their weights.

The score of a mixture is a sum of what each component brings in proportion to its weight and a smooth function of the
square roots of the weights: a little of a new component changes more than a little more of a known one. Scores at
earlier steps count, too: scaled to the spread of the final ones, a mixture's scores walk at random, in the logarithm of
the step, towards its final one. How far they walk and the scales of both parts are estimated from the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # whose parts are imported when they are first used
from numpy.typing import NDArray

Weights = Mapping[str, float]
Array = NDArray[np.float64]

LASTING = 0.37
"""The share of the variance over seeds that all steps of a run have in common. Published: the standard deviation is
0.00221 for the last score, and 0.00156 for the mean of the last five."""
EXPECTED = np.log([1.0, 0.5, 0.5])
"""Standard deviations of both parts, in those of the scores, and length of the smooth one, before any score is known;
each may well be a factor e larger or smaller. They decide where few mixtures are scored."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A mixture with its mean score by step.

    Attributes:
        weights: the share of each component.
        runs: the number of student runs.
    """

    weights: Weights
    curve: Mapping[int, float]
    runs: int


def final_scores(observations: Sequence[Observation], variance: float) -> tuple[Array, Array]:
    """Return what the scores of all steps say about each mixture's final score, and the variances of these estimates.

    Args:
        observations: at least two of them reach the last step.
        variance: of one seed's final score.
    """
    last = max(step for one in observations for step in one.curve)
    final = [one.curve for one in observations if last in one.curve]
    steps = sorted(step for step in set.intersection(*map(set, final)) if step > 0)
    known = np.array([[curve[step] for step in steps] for curve in final])
    centers, spreads = known.mean(axis=0), known.std(axis=0)
    scales = spreads[-1] / np.where(spreads > 0, spreads, np.inf)
    groups: dict[tuple[tuple[bool, ...], int], list[int]] = {}
    for index, one in enumerate(observations):
        groups.setdefault((tuple(step in one.curve for step in steps), one.runs), []).append(index)
    scores, variances = np.zeros(len(observations)), np.zeros(len(observations))

    def estimate(drift: float) -> float:
        """Fill in scores and variances for a variance of the walk per unit of log step; return minus log-likelihood."""
        loss = 0.0
        for (has, runs), members in groups.items():
            chosen = np.flatnonzero(has)
            at = [steps[index] for index in chosen]
            values = [[observations[member].curve[step] for member in members] for step in at]
            aligned = centers[-1] + (np.array(values) - centers[chosen, None]) * scales[chosen, None]
            before = np.log(last / np.array(at))
            noise = variance / runs * (LASTING + (1 - LASTING) * np.eye(len(at)))
            root = np.linalg.cholesky(drift * np.minimum.outer(before, before) + noise)
            ones = scipy.linalg.solve_triangular(root, np.ones(len(at)), lower=True)
            whitened = scipy.linalg.solve_triangular(root, aligned, lower=True)
            scores[members], variances[members] = ones @ whitened / (ones @ ones), 1 / (ones @ ones)
            rest = whitened - np.outer(ones, scores[members])
            determinant = np.log(np.diag(root)).sum() + 0.5 * np.log(ones @ ones)
            loss += 0.5 * float((rest**2).sum()) + len(members) * float(determinant)
        return loss

    best = scipy.optimize.minimize_scalar(
        lambda times: estimate(variance * np.exp(times)), bounds=(-8, 8), method="bounded"
    )
    estimate(variance * float(np.exp(best.x)))
    return scores, variances


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A fitted Gaussian process.

    Attributes:
        names: the components, which are the columns of `weights`.
        weights: one row per observed mixture.
        scores, variances: see `final_scores`.
        parameters: logarithms of the standard deviations of both parts, in units of `spread`, and of the length.
        spread: the standard deviation of the scores.
    """

    names: tuple[str, ...]
    weights: Array
    scores: Array
    variances: Array
    parameters: Array
    spread: float

    @classmethod
    def fit(cls, observations: Sequence[Observation], variance: float) -> Surrogate:
        """Fit to the scores of at least three mixtures; see `final_scores`."""
        names = tuple(sorted({name for one in observations for name in one.weights}))
        weights = _rows(names, [one.weights for one in observations])
        scores, variances = final_scores(observations, variance)
        spread = max(float(scores.std()), variance**0.5)
        products, distances = _products(weights, weights)
        values, noise = (scores - scores.mean()) / spread, np.diag(variances / spread**2)

        def loss(parameters: Array) -> float:
            root = np.linalg.cholesky(_covariance(parameters, products, distances) + noise)
            whitened = scipy.linalg.solve_triangular(root, values, lower=True)
            prior = 0.5 * float(((parameters - EXPECTED) ** 2).sum())
            return prior + 0.5 * float(whitened @ whitened) + float(np.log(np.diag(root)).sum())

        best = scipy.optimize.minimize(loss, EXPECTED, method="L-BFGS-B", bounds=[(-5, 3)] * 3)
        fitted = {"weights": weights, "scores": scores, "variances": variances, "parameters": best.x}
        return cls(names=names, spread=spread, **fitted)

    def predict(self, mixtures: Sequence[Weights]) -> tuple[Array, Array]:
        """Return the expected final scores of some mixtures, and the covariance of what is not known about them."""
        new = _rows(self.names, mixtures)
        cross = _covariance(self.parameters, *_products(new, self.weights))
        own = _covariance(self.parameters, *_products(new, new))
        values = (self.scores - self.scores.mean()) / self.spread
        mean = self.scores.mean() + self.spread * cross @ scipy.linalg.cho_solve(self._factor, values)
        return mean, self.spread**2 * (own - cross @ scipy.linalg.cho_solve(self._factor, cross.T))

    @cached_property
    def _factor(self) -> tuple[Array, bool]:
        covariance = _covariance(self.parameters, *_products(self.weights, self.weights))
        return scipy.linalg.cho_factor(covariance + np.diag(self.variances / self.spread**2), lower=True)


def _rows(names: Sequence[str], mixtures: Sequence[Weights]) -> Array:
    """Return the weights of some mixtures as rows that add up to 1; components without a name count as 0."""
    weights = np.array([[mixture.get(name, 0.0) for name in names] for mixture in mixtures])
    return weights / weights.sum(axis=1, keepdims=True)


def _products(first: Array, second: Array) -> tuple[Array, Array]:
    """Return the products of weights, and the squared distances of their roots, of all pairs."""
    return first @ second.T, np.maximum(0.0, 2 - 2 * np.sqrt(first) @ np.sqrt(second).T)


def _covariance(parameters: Array, products: Array, distances: Array) -> Array:
    """Return the covariance of scores in units of their spread; the mean of all is left open."""
    linear, smooth, length = np.exp(parameters)
    return 10.0 + linear**2 * products + smooth**2 * np.exp(-distances / (2 * length**2))
