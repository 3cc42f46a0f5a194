"""Students: their tokenizer, mixtures, shape and schedule, the training runs, and how they are evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from finephrase_dagster.study.catalogue import Catalogue
from finephrase_dagster.study.fields import (
    EMBEDDED,
    InvalidFields,
    ModelReference,
    Name,
    Problem,
    Seed,
    Spec,
    check_heads,
    describe,
    no_such_name,
    repeated,
)

SEED_SHIFT = 1000
"""Added to each seed of a mixture for the mixture that repeats it as the other arm of an A/A pair."""
MANY_EPOCHS = 4
"""Up to so many epochs, repeated text is about as good as new text (Muennighoff et al., arXiv 2305.16264)."""


class Tokenizer(Spec):
    """The students' tokenizer: one for the complete study, so that scores per token are comparable."""

    model: ModelReference = Field(examples=[EMBEDDED])
    vocabulary: int | None = Field(default=None, ge=512, description="number of entries")
    sources: tuple[Name, ...] = Field(default=(), description="sources that it is trained on")

    @property
    def trained_here(self) -> bool:
        """Whether this study trains the tokenizer."""
        return self.model == EMBEDDED

    @model_validator(mode="after")
    def _trainable(self) -> Tokenizer:
        if self.model == EMBEDDED and (self.vocabulary is None or not self.sources):
            raise ValueError("model is 'embedded', so the study trains it; add 'vocabulary' and 'sources'")
        return self


def _require_reason(reason: Any) -> Any:
    if not isinstance(reason, str) or not reason.strip():
        message = f"is {describe(reason)}; write the reason, such as 'measures what a dataset without a form costs'"
        raise ValueError(message if reason else f"{message}, or remove the field")
    return reason


Reason = Annotated[str, BeforeValidator(_require_reason)]


class Mixture(Spec):
    """A weighted mixture of datasets, up to a budget of tokens.

    A component is a source (`package_readmes`) or a synthetic dataset (`<generator>__<source>/<prompt>`). Its weight
    becomes its share of the tokens after all weights are scaled to sum to 1.
    """

    components: Mapping[str, Annotated[float, Field(gt=0, le=1e9)]] = Field(min_length=1, examples=[{"my_files": 1}])
    tokens: int = Field(ge=1, description="tokens that a student is trained on", examples=[80_000])
    seed: Seed = Field(default=0, description="draws the windows of components")
    despite_audits: Reason | None = Field(
        default=None, description="the reason why datasets that failed their audit are used, too"
    )
    epochs: float | None = Field(
        default=None, ge=1, description="how often a student sees each window, of a part of each component if need be"
    )
    match_epochs_of: Name | None = Field(default=None, description="the mixture whose epochs this one takes")
    replicate_of: Name | None = Field(default=None, description="the other arm of an A/A pair")
    control_of: Name | None = Field(
        default=None, description="the mixture that this one has the text of, with the words of each document shuffled"
    )

    @property
    def origin(self) -> str | None:
        """The mixture that this one checks the study with, as an A/A pair or a control; None for a candidate."""
        return self.replicate_of or self.control_of

    @property
    def weights(self) -> dict[str, float]:
        """Shares by component, sorted by name: the order in the study file is not part of the identity."""
        total = math.fsum(self.components.values())  # whatever their order
        return {name: self.components[name] / total for name in sorted(self.components)}

    def windows(self, sequence: int) -> dict[str, int]:
        """Return the number of windows of `sequence` tokens for each component; together they use up the budget.

        The largest remainders are rounded up, and of equal ones the first. Each share is less than one window off, so
        with 1,000 windows or more each is within 0.1 % of its weight.
        """
        return allocate(self.weights, self.tokens // sequence)


def allocate(weights: Mapping[str, float], windows: int) -> dict[str, int]:
    """Split windows by shares that sum to 1; see `Mixture.windows`."""
    exact = {name: weight * windows for name, weight in weights.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: windows - sum(counts.values())]:
        counts[name] += 1
    return counts


def window_pool(windows: int, available: int, epochs: float | None) -> int:
    """Return from how many windows of a component the drawn ones are taken.

    Args:
        windows: the number of windows drawn, including repetitions.
        available: complete windows in the dataset.
        epochs: how often each is to be drawn; None: as the dataset's size gives it. A dataset that is too small for so
            few repetitions has a pool that is larger than itself.
    """
    return available if epochs is None else max(1, round(windows / max(1.0, epochs)))


def largest_epochs(mixture: Mixture, available: Mapping[str, int], sequence: int) -> float:
    """Return how often a student sees the component that is repeated most, given each component's windows."""
    return max(
        count / max(1, window_pool(count, available[name], mixture.epochs))
        for name, count in mixture.windows(sequence).items()
    )


class Student(Spec):
    """A decoder that is trained from scratch: a Llama without biases and with tied embeddings."""

    layers: int = Field(ge=1, examples=[2])
    hidden: int = Field(ge=8, examples=[128])
    ffn: int = Field(ge=8, examples=[384])
    heads: int = Field(ge=1, examples=[4])
    kv_heads: int = Field(ge=1, examples=[2])
    batch_sequences: int = Field(ge=1, description="sequences per optimizer step", examples=[2])
    learning_rate: float = Field(gt=0, examples=[2e-3])
    final_learning_rate: float = Field(ge=0, examples=[2e-4])
    warmup_fraction: float = Field(default=0.01, ge=0, le=1, description="share of the steps")
    decay_fraction: float = Field(default=0.1, ge=0, le=1, description="share of the steps")
    weight_decay: float = Field(default=0.1, ge=0)
    document_masking: bool = Field(default=True, description="whether attention stays within a document")
    precision: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="of products; default: float32 with transformers, bfloat16 with nanotron"
    )
    attention: str | None = Field(
        default=None, description="transformers' attention kernel, such as flash_attention_2; default: PyTorch's own"
    )
    tensor: int = Field(default=1, ge=1, description="nanotron: GPUs that share each matrix")
    pipeline: int = Field(default=1, ge=1, description="nanotron: GPUs that share the layers")

    def parameters(self, vocabulary: int) -> int:
        """Return the number of trainable parameters; tied embeddings count once."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv_heads * (self.hidden // self.heads)
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        return vocabulary * self.hidden + self.layers * layer + self.hidden

    def unsupported_by(self, trainer: str) -> str | None:
        """Return the name of a field that this trainer cannot follow; None if there is none."""
        wrong = {
            "transformers": {"tensor": self.tensor > 1, "pipeline": self.pipeline > 1},
            "nanotron": {"precision": self.precision == "float32", "attention": self.attention is not None},
        }
        return next((field for field, is_wrong in wrong[trainer].items() if is_wrong), None)

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

    def stable_steps(self, steps: int) -> int:
        """Return how many of a schedule's steps come before the learning rate decays."""
        return steps - round(self.decay_fraction * steps)


class Seeds(Spec):
    """The two sources of noise in a student: the order of its data and its initial weights."""

    data: Seed = Field(examples=[0])
    model: Seed = Field(examples=[0])

    @property
    def shifted(self) -> Seeds:
        """The seeds of an arm that repeats a mixture with these seeds."""
        return Seeds(data=(self.data + SEED_SHIFT) % 2**32, model=(self.model + SEED_SHIFT) % 2**32)


class SeedGrid(Spec):
    """Each data seed with each model seed."""

    data: tuple[Seed, ...] = Field(min_length=1)
    model: tuple[Seed, ...] = Field(min_length=1)

    def pairs(self) -> Iterator[Seeds]:
        """Yield each pair."""
        return (Seeds(data=data, model=model) for data, model in product(self.data, self.model))


@dataclass(frozen=True, kw_only=True)
class StudentRun:
    """One training run; its name is a partition key.

    Attributes:
        decay_from: the mixture whose run, of the same student and seeds, this run continues just before the learning
            rate decays, so that only the decay is trained on `mixture`; None for a run from scratch.
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
    def arm(self) -> str:
        """The name of what runs have in common that differ in their seeds alone."""
        return arm_name(self.mixture, self.student, self.decay_from)

    @property
    def base(self) -> StudentRun | None:
        """The run that this run continues; None for a run from scratch."""
        if self.decay_from is None:
            return None
        return StudentRun(mixture=self.decay_from, student=self.student, seeds=self.seeds)

    def of_mixture(self, mixture: str) -> StudentRun:
        """Return the same run on another mixture."""
        return replace(self, mixture=mixture)


def arm_name(mixture: str, student: str, decay_from: str | None) -> str:
    """Return the name of a mixture with a student, such as `faq_and_raw__nano`."""
    return f"{mixture}__{student}{f'__decay_{decay_from}' if decay_from else ''}"


def _form_of_seeds(seeds: object) -> str:
    return "grid" if isinstance(seeds, (dict, SeedGrid)) else "pairs"


class EarlyStop(Spec):
    """Compare the runs of one student on one budget with the same seeds at a step; only the best continue.

    Runs that others decay from, and runs that decay from others, always continue.
    """

    step: int = Field(ge=1, description="optimizer steps after which students are compared", examples=[1000])
    keep: float = Field(
        gt=0, lt=1, description="share of the students that continue, by macro score; at least one", examples=[0.5]
    )

    def going_on(self, students: int) -> int:
        """Return how many of some students continue, rounded up."""
        return max(1, math.ceil(self.keep * students - 1e-9))  # 0.07 * 100 is a little more than 7


ALL = ("all",)
"""Stands for all benchmarks until the catalogue is known."""


class Evaluation(Spec):
    """The benchmark suite."""

    items: Literal["hub"] | ModelReference = Field(
        description="`embedded`, `hub` (the original datasets), or a folder with one folder per benchmark"
    )
    tasks: tuple[str, ...] = Field(
        default=ALL, validate_default=True, min_length=1, description="names of benchmarks; default: all"
    )
    held_out: tuple[str, ...] = Field(
        default=(), description="tasks that are evaluated and shown, but not used to choose: they count for no mean"
    )
    shots: int = Field(default=3, ge=0, description="examples before each item")
    samples: int = Field(default=1000, ge=1, description="most items per benchmark")
    every: int | None = Field(
        default=None, ge=1, description="also evaluate students every so many steps; default: only at their end"
    )
    backend: Literal["transformers", "vllm"] = Field(
        default="transformers", description="transformers computes in float32, vLLM in the checkpoint's precision"
    )
    engine: Mapping[str, str | int | float | bool] = Field(
        default_factory=dict, description="arguments of vLLM; those that only change how it runs are not identity"
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _resolve_tasks(cls, tasks: Any, info: ValidationInfo) -> Any:
        if not isinstance(info.context, Catalogue):
            return tasks
        known = info.context.tasks
        if tasks == ALL:
            return tuple(known)
        listed = tasks if isinstance(tasks, tuple) else ()
        wrong = [
            Problem((index,), no_such_name(task, known))
            for index, task in enumerate(listed)
            if isinstance(task, str) and task not in known
        ]
        if wrong:
            raise InvalidFields(wrong)
        return tasks

    @model_validator(mode="after")
    def _keeps_tasks_to_choose_by(self, info: ValidationInfo) -> Self:
        problems = [
            Problem(("held_out", index), f"is not evaluated: {no_such_name(task, self.tasks)}")
            for index, task in enumerate(self.held_out)
            if task not in self.tasks
        ]
        if twice := list(repeated(self.held_out)):
            problems.append(Problem(("held_out",), f"{twice[0][1]} is listed more than once; list it once"))
        if isinstance(info.context, Catalogue) and self.held_out:
            counted = {*info.context.counted_tasks} & {*self.tasks}
            if counted <= {*self.held_out}:
                problems.append(Problem(("held_out",), "holds out every task that counts for a mean; keep one or more"))
        if problems:
            raise InvalidFields(problems)
        return self


class RunGrid(Spec):
    """Training runs: each mixture with each student and each pair of seeds."""

    mixtures: tuple[str, ...] = Field(min_length=1, description="names, or patterns with * and ?", examples=[["*"]])
    students: tuple[Name, ...] = Field(min_length=1, examples=[["1_7b"]])
    seeds: (
        Annotated[
            Annotated[tuple[Seeds, ...], Field(min_length=1), Tag("pairs")] | Annotated[SeedGrid, Tag("grid")],
            Discriminator(_form_of_seeds),
        ]
        | None
    ) = Field(default=None, description="default: the study's")
    decay_from: Name | None = Field(
        default=None, description="a mixture whose run is continued just before its learning rate decays"
    )

    def size(self, mixtures: int, seeds: int) -> int:
        """Return the number of runs, given the number of mixtures and of the study's own pairs of seeds."""
        if isinstance(self.seeds, SeedGrid):
            seeds = len(self.seeds.data) * len(self.seeds.model)
        elif self.seeds is not None:
            seeds = len(self.seeds)
        return mixtures * len(self.students) * seeds

    def runs(self, mixtures: Mapping[str, Mixture], seeds: tuple[Seeds, ...]) -> Iterator[StudentRun]:
        """Yield the runs on some mixtures; `seeds` are the study's, for a grid without its own.

        A mixture that repeats another one shifts the study's seeds. The mixture that others decay from is left out: its
        run would continue itself.
        """
        pairs = tuple(self.seeds.pairs()) if isinstance(self.seeds, SeedGrid) else self.seeds or seeds
        for mixture, student, pair in product(mixtures, self.students, pairs):
            if self.seeds is None and mixtures[mixture].replicate_of:
                pair = pair.shifted
            if mixture != self.decay_from:
                yield StudentRun(mixture=mixture, student=student, seeds=pair, decay_from=self.decay_from)
