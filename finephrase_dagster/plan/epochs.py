"""How often students will see their text, as far as the sizes of datasets are known."""

from __future__ import annotations

from collections.abc import Iterator

from finephrase_dagster.plan.expectation import Expectations
from finephrase_dagster.study.spec import Study
from finephrase_dagster.study.student import MANY_EPOCHS


def expected_epochs(study: Study, mixture: str, expected: Expectations) -> dict[str, float]:
    """Return how often a student will see each component of a mixture, or the part of it that is used."""
    spec = study.mixtures[mixture]
    sizes = {name: expected.size(study.datasets[name]).tokens for name in spec.components}
    complete = {name: spec.weights[name] * spec.tokens / tokens for name, tokens in sizes.items() if tokens}
    target = target_epochs(study, mixture, expected)
    return complete if target is None else {name: max(target, epochs) for name, epochs in complete.items()}


def target_epochs(study: Study, mixture: str, expected: Expectations) -> float | None:
    """Return the epochs that a mixture sets for all its components; None if it sets none, or if they are unknown."""
    spec = study.mixtures[mixture]
    if spec.match_epochs_of is None:
        return spec.epochs
    return max(1.0, *epochs) if (epochs := expected_epochs(study, spec.match_epochs_of, expected).values()) else None


def repetition_warnings(study: Study, expected: Expectations) -> Iterator[str]:
    """Yield warnings of datasets that a student would see too often, and of those too small for a mixture's epochs."""
    many: dict[str, float] = {}
    for name in study.mixtures:
        target = target_epochs(study, name, expected)
        for component, epochs in expected_epochs(study, name, expected).items():
            if target is not None and epochs > 1.02 * target:
                yield (
                    f"mixtures.{name}: {component} is too small to be seen {target:.3g} times; a student would see it "
                    f"about {epochs:.3g} times. Use more text, lower its weight or 'tokens', or raise the epochs"
                )
            elif epochs > MANY_EPOCHS:
                many[f"mixtures.{name}: a student sees {component} about {epochs:.1f} times"] = epochs
    if many:
        worst = sorted(many, key=lambda warning: -many[warning])
        more = f", and {len(worst) - 3} more like this" if len(worst) > 3 else ""
        yield (
            f"{'; '.join(worst[:3])}{more}: beyond {MANY_EPOCHS} times, repetition lowers scores; reduce 'tokens' or "
            "the weight, or use more text"
        )
