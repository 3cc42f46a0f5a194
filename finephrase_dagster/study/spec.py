"""The specs of a study: what is computed, and nothing about where or how it runs.

Everything here is frozen. A field that determines an output is required or its default is written
down in the study file's documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from finephrase_dagster.study.fields import EMBEDDED, ModelReference, Name, Spec, check_heads
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.source import Source

TASKS = (
    "arc_cf:easy",
    "hellaswag_cf",
    "mmlu_redux_cf",
    "xcsqa_cf",
    "squad_v2",
    "openbookqa_cf",
    "winogrande_cf",
    "piqa_cf",
    "gsm8k",
    "drop",
    "wikitablequestions",
    "treb_qa",
)


class Cell(Spec):
    """One generator on one source; its prompts are the partitions."""

    generator: Name
    source: Name
    prompts: tuple[Name, ...] | None = Field(default=None, description="default: all prompts of the study")

    @property
    def name(self) -> str:
        return f"{self.generator}__{self.source}"


class Gates(Spec):
    """What a synthetic dataset must pass before a mixture may use it; shares of its rows, 0 to 1."""

    min_completed: float = Field(ge=0, le=1)
    max_empty: float = Field(ge=0, le=1)
    max_truncated: float = Field(ge=0, le=1, description="completions that ended at max_tokens")
    min_form: float = Field(ge=0, le=1, description="completions that have the prompt's form")
    max_common_opening: float = Field(ge=0, le=1, description="share of the most common opening")
    opening_characters: int = Field(ge=1, description="characters that make an opening")


class Tokenizer(Spec):
    """The students' tokenizer: one for the whole study, so that scores per token compare."""

    model: ModelReference
    vocabulary: int | None = Field(default=None, ge=512, description="entries; used by `model: embedded`")
    sources: tuple[Name, ...] = Field(default=(), description="texts it is trained on, likewise")

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

    components: Mapping[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    tokens: int = Field(ge=1, description="training tokens of a student on this mixture")
    seed: int = Field(ge=0, description="which windows are drawn where a component is longer than its share")

    @property
    def weights(self) -> dict[str, float]:
        """Shares by component, in the order of their names: how the file lists them is no identity."""
        total = sum(self.components.values())
        return {name: self.components[name] / total for name in sorted(self.components)}


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

    @model_validator(mode="after")
    def _divides(self) -> Student:
        check_heads(self.hidden, self.heads)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction and decay_fraction together are more than 1")
        return self


class Seeds(Spec):
    """The two sources of a student's noise, apart: the order of its data and its initial weights."""

    data: int = Field(ge=0)
    model: int = Field(ge=0)


class Evaluation(Spec):
    """The benchmark suite."""

    items: ModelReference = Field(description="`embedded`, or a folder with one JSONL folder a task")
    tasks: tuple[Literal[TASKS], ...] = Field(min_length=1)  # type: ignore[valid-type]
    shots: int = Field(ge=0)
    samples: int = Field(ge=1, description="items a task at most")


@dataclass(frozen=True, kw_only=True)
class StudentRun:
    """One training run; its name is a partition key."""

    mixture: str
    student: str
    seeds: Seeds

    @property
    def name(self) -> str:
        return f"{self.mixture}__{self.student}__data{self.seeds.data}_model{self.seeds.model}"


class Study(Spec):
    """A whole study, as one file says it."""

    name: Name
    description: str = Field(min_length=1)
    prompts: tuple[Name, ...] = Field(min_length=1)
    sources: Mapping[Name, Source] = Field(min_length=1)
    generators: Mapping[Name, Generator] = Field(min_length=1)
    cells: tuple[Cell, ...] = Field(min_length=1)
    gates: Gates
    tokenizer: Tokenizer
    sequence: int = Field(ge=16, description="tokens a training sequence, the students' context")
    mixtures: Mapping[Name, Mixture] = Field(min_length=1)
    students: Mapping[Name, Student] = Field(min_length=1)
    seeds: tuple[Seeds, ...] = Field(min_length=1)
    evaluation: Evaluation

    @model_validator(mode="after")
    def _refers_to_what_it_has(self) -> Study:
        _no_repeats("prompts", self.prompts)
        _no_repeats("cells", [cell.name for cell in self.cells])
        _no_repeats("seeds", [f"data {seeds.data}, model {seeds.model}" for seeds in self.seeds])
        _no_repeats("evaluation.tasks", self.evaluation.tasks)
        for index, cell in enumerate(self.cells):
            _known(f"cells[{index}].generator", cell.generator, self.generators)
            _known(f"cells[{index}].source", cell.source, self.sources)
            _no_repeats(f"cells[{index}].prompts", cell.prompts or ())
            for prompt in cell.prompts or ():
                _known(f"cells[{index}].prompts", prompt, self.prompts)
        for name, generator in self.generators.items():
            for source in generator.embedded.sources if generator.embedded else ():
                _known(f"generators.{name}.embedded.sources", source, self.sources)
        for source in self.tokenizer.sources:
            _known("tokenizer.sources", source, self.sources)
        for name, mixture in self.mixtures.items():
            for component in mixture.components:
                _known(f"mixtures.{name}.components", component, self.datasets)
        return self

    def prompts_of(self, cell: Cell) -> tuple[str, ...]:
        """The partitions of a cell."""
        return self.prompts if cell.prompts is None else cell.prompts

    def cell(self, name: str) -> Cell:
        """The cell of a name `<generator>__<source>`."""
        return next(cell for cell in self.cells if cell.name == name)

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        """What a mixture may name: sources, then `<cell>/<prompt>`."""
        synthetic = [f"{cell.name}/{prompt}" for cell in self.cells for prompt in self.prompts_of(cell)]
        return (*self.sources, *synthetic)

    @cached_property
    def student_runs(self) -> dict[str, StudentRun]:
        """All training runs by name: mixtures x students x seeds."""
        return {run.name: run for run in self._student_runs()}

    def _student_runs(self) -> Iterator[StudentRun]:
        for mixture in self.mixtures:
            for student in self.students:
                for seeds in self.seeds:
                    yield StudentRun(mixture=mixture, student=student, seeds=seeds)


def _known(field: str, name: str, names: Mapping[str, Any] | tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{field}: there is no {name!r}; known: {', '.join(names)}")


def _no_repeats(field: str, names: tuple[str, ...] | list[str]) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f"{field}: {', '.join(repeated)} stands more than once; partition names are unique")
