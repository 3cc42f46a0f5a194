"""Students: what they are trained on, their shape and schedule, and which runs a study lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from finephrase_dagster.study.fields import EMBEDDED, ModelReference, Name, Seed, Spec, check_heads

MANY_EPOCHS = 4
"""Repetition up to which more passes are about as good as new text (Muennighoff et al., arXiv 2305.16264)."""


class Tokenizer(Spec):
    """The students' tokenizer: one for the whole study, so that scores per token compare."""

    model: ModelReference
    vocabulary: int | None = Field(default=None, ge=512, description="entries; of a model elsewhere, for plans alone")
    sources: tuple[Name, ...] = Field(default=(), description="texts it is trained on, likewise")

    @property
    def trained_here(self) -> bool:
        """Whether the study trains it."""
        return self.model == EMBEDDED

    @model_validator(mode="after")
    def _trainable(self) -> Tokenizer:
        if self.model == EMBEDDED and (self.vocabulary is None or not self.sources):
            raise ValueError("model is 'embedded': say 'vocabulary' and 'sources' to train it")
        return self


class Mixture(Spec):
    """Datasets by weight up to a budget.

    A component is a source (`package_readmes`) or a synthetic dataset (`<generator>__<source>/<prompt>`);
    its weight is its share of the tokens after all weights are scaled to sum to 1.
    """

    components: Mapping[str, Annotated[float, Field(gt=0, le=1e9)]] = Field(min_length=1)
    tokens: int = Field(ge=1, description="training tokens of a student on this mixture")
    seed: Seed = Field(description="which windows are drawn where a component is longer than its share")

    @property
    def weights(self) -> dict[str, float]:
        """Shares by component, in the order of their names: how the file lists them is no identity."""
        total = sum(self.components.values())
        return {name: self.components[name] / total for name in sorted(self.components)}

    def windows(self, sequence: int) -> dict[str, int]:
        """Windows of so many tokens for each component: all that the budget has, by weight.

        The largest remainders are rounded up, ties to the earlier one. No share is off by a window, so from 1,000
        windows on each is within 0.1 % of its weight.
        """
        return allocate(self.weights, self.tokens // sequence)


def allocate(weights: Mapping[str, float], windows: int) -> dict[str, int]:
    """Splits windows by shares that sum to 1; see `Mixture.windows`."""
    exact = {name: weight * windows for name, weight in weights.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: windows - sum(counts.values())]:
        counts[name] += 1
    return counts


class Student(Spec):
    """A decoder trained from scratch: a Llama without biases, tied embeddings; see docs/study-file.md."""

    layers: int = Field(ge=1)
    hidden: int = Field(ge=8)
    ffn: int = Field(ge=8)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    batch_sequences: int = Field(ge=1, description="sequences an optimizer step")
    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(ge=0)
    warmup_fraction: float = Field(ge=0, le=1)
    decay_fraction: float = Field(ge=0, le=1)
    weight_decay: float = Field(ge=0)
    document_masking: bool = Field(description="whether attention stays within a document")

    def parameters(self, vocabulary: int) -> int:
        """Its trainable parameters, the tied embeddings once."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv_heads * (self.hidden // self.heads)
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        return vocabulary * self.hidden + self.layers * layer + self.hidden

    @model_validator(mode="after")
    def _divides(self) -> Student:
        check_heads(self.hidden, self.heads)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate:g} is above learning_rate {self.learning_rate:g}, from "
                "which it decays; lower it"
            )
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction and decay_fraction together are more than 1")
        return self


class Seeds(Spec):
    """The two sources of a student's noise, apart: the order of its data and its initial weights."""

    data: Seed
    model: Seed


class SeedGrid(Spec):
    """Every data seed with every model seed."""

    data: tuple[Seed, ...] = Field(min_length=1)
    model: tuple[Seed, ...] = Field(min_length=1)

    def pairs(self) -> Iterator[Seeds]:
        """Each of them."""
        return (Seeds(data=data, model=model) for data, model in product(self.data, self.model))


@dataclass(frozen=True, kw_only=True)
class StudentRun:
    """One training run; its name is a partition key.

    Attributes:
        decay_from: the mixture whose run (of the same student and seeds) this one takes up before its
            learning rate decays, so that only the decay is trained on `mixture`; None: trained from scratch.
    """

    mixture: str
    student: str
    seeds: Seeds
    decay_from: str | None = None

    @property
    def name(self) -> str:
        variant = f"__decay_{self.decay_from}" if self.decay_from else ""
        return f"{self.mixture}__{self.student}__data{self.seeds.data}_model{self.seeds.model}{variant}"

    @property
    def base(self) -> StudentRun | None:
        """The run that a decay variant takes up."""
        if self.decay_from is None:
            return None
        return StudentRun(mixture=self.decay_from, student=self.student, seeds=self.seeds)


def _how_said(seeds: object) -> str:
    return "grid" if isinstance(seeds, (dict, SeedGrid)) else "pairs"


class EarlyStop(Spec):
    """Runs of one student, budget and pair of seeds are compared at a step, and only the best go on.

    Runs that others decay from, and those that do, go on in any case.
    """

    step: int = Field(ge=1, description="optimizer steps after which students are compared")
    keep: float = Field(gt=0, lt=1, description="the part of them that goes on, by macro score; at least one")

    def going_on(self, students: int) -> int:
        """How many of so many students go on: the part, rounded up."""
        return max(1, math.ceil(self.keep * students - 1e-9))  # 0.07 * 100 is a little more than 7


class RunGrid(Spec):
    """Training runs: each of the mixtures with each student and each pair of seeds."""

    mixtures: tuple[str, ...] = Field(min_length=1, description="names, or patterns with * and ?")
    students: tuple[Name, ...] = Field(min_length=1)
    seeds: (
        Annotated[
            Annotated[tuple[Seeds, ...], Field(min_length=1), Tag("pairs")] | Annotated[SeedGrid, Tag("grid")],
            Discriminator(_how_said),
        ]
        | None
    ) = Field(default=None, description="default: the study's")
    decay_from: Name | None = Field(
        default=None, description="a mixture: train only the decay, on what its run was before it"
    )

    def size(self, mixtures: int, seeds: int) -> int:
        """How many runs these are, of so many mixtures and with so many pairs of the study's."""
        if isinstance(self.seeds, SeedGrid):
            seeds = len(self.seeds.data) * len(self.seeds.model)
        elif self.seeds is not None:
            seeds = len(self.seeds)
        return mixtures * len(self.students) * seeds

    def runs(self, mixtures: Iterable[str], seeds: tuple[Seeds, ...]) -> Iterator[StudentRun]:
        """The runs on the mixtures that the patterns stood for, with the study's seeds where it names none.

        A mixture that others decay from does not decay from itself: that run would be its own.
        """
        pairs = tuple(self.seeds.pairs()) if isinstance(self.seeds, SeedGrid) else self.seeds or seeds
        for mixture, student, pair in product(mixtures, self.students, pairs):
            if mixture != self.decay_from:
                yield StudentRun(mixture=mixture, student=student, seeds=pair, decay_from=self.decay_from)
