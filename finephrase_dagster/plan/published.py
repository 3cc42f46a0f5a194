"""Figures of the published study, which a plan uses where this installation has measured nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from finephrase_dagster.study.fields import Spec
from finephrase_dagster.study.loader import load_yaml, read_bounded
from finephrase_dagster.study.paths import SHIPPED

PUBLISHED = SHIPPED / "studies" / "figures.yaml"


class TrainingFigure(Spec):
    """One training whose cost is known."""

    parameters: float = Field(gt=0)
    tokens: float = Field(gt=0)
    gpu_hours: float = Field(gt=0)


class EarlyFigure(Spec):
    """What stopping students early would have cost the published study.

    Attributes:
        part: the part of the training after which students are compared.
        keep: the part of the students that continues.
        rank_correlation: Spearman's rank correlation of the early with the final macro scores.
        regret: loss in the best final score, averaged over resamples of the students.
    """

    part: float = Field(gt=0, lt=1)
    keep: float = Field(gt=0, lt=1)
    rank_correlation: float = Field(ge=-1, le=1)
    regret: float = Field(ge=0)


class Published(Spec):
    """The published study's figures.

    Attributes:
        input_tokens: mean tokens per request, by source.
        output_tokens: mean tokens per completion, by source, prompt and generator.
        seed_spread: standard deviations over seeds, by student and score; `results/noise.py` uses them.
    """

    input_tokens: Mapping[str, float]
    output_tokens: Mapping[str, Mapping[str, Mapping[str, float]]]
    training: TrainingFigure
    early_looks: tuple[EarlyFigure, ...] = Field(min_length=1)
    seed_spread: Mapping[str, Mapping[str, float]]
    gpu_hour_dollars: float = Field(ge=0)

    @classmethod
    def read(cls, path: Path = PUBLISHED) -> Published:
        return cls.model_validate(load_yaml(read_bounded(path)))

    def completion(self, source: str, prompt: str, generator: str) -> tuple[float, str] | None:
        """Return the mean tokens per completion of the most similar run, and how similar it is; None without runs."""
        exact = self.output_tokens.get(source, {}).get(prompt, {}).get(generator)
        if exact is not None:
            return exact, "published run"
        runs = [(of, name, value) for _, of, name, value in self._runs()]
        alike = {
            "published, this prompt and generator on other sources": [
                value for of, name, value in runs if (of, name) == (prompt, generator)
            ],
            "published, this prompt by other generators": [value for of, _, value in runs if of == prompt],
            "published, other prompts by this generator": [value for _, name, value in runs if name == generator],
            "published, all runs": [value for _, _, value in runs],
        }
        return next(((sum(values) / len(values), basis) for basis, values in alike.items() if values), None)

    def early(self, part: float, keep: float) -> EarlyFigure | None:
        """Return the most similar figure that is no later and keeps no more students; None without one."""
        fitting = [look for look in self.early_looks if look.part <= part and look.keep <= keep]
        return max(fitting, key=lambda look: (look.part, look.keep), default=None)

    def _runs(self) -> Iterator[tuple[str, str, str, float]]:
        for source, prompts in self.output_tokens.items():
            for prompt, generators in prompts.items():
                for generator, value in generators.items():
                    yield source, prompt, generator, value
