"""The specs of a study: what is computed, and nothing about where or how it runs.

Everything here is frozen. A field that determines an output is required or its default is written
down in the study file's documentation; `engine` alone mixes in execution, kept beside the model that
needs it, and what of it is no identity is named here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

EMBEDDED = "embedded"
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

EXECUTION_FLAGS = frozenset(
    [
        "api_server_count",
        "async_scheduling",
        "attention_backend",
        "block_size",
        "compilation_config",
        "cpu_offload_gb",
        "data_parallel_size",
        "disable_custom_all_reduce",
        "disable_log_stats",
        "disable_uvicorn_access_log",
        "distributed_executor_backend",
        "enable_chunked_prefill",
        "enable_expert_parallel",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
        "max_parallel_loading_workers",
        "num_gpu_blocks_override",
        "pipeline_parallel_size",
        "scheduling_policy",
        "speculative_config",
        "swap_space",
        "tensor_parallel_size",
        "uvicorn_log_level",
    ]
)
"""vLLM flags that say how it runs and leave the distribution of completions alone."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$", max_length=64)]
"""A partition key and a part of a file name: lower-case words joined by single underscores, so that
the double underscore between names is unambiguous and no name leaves the data folder."""


def _model_reference(value: str) -> str:
    if value == EMBEDDED or value.startswith(("/", "./", "../")):
        return value
    if re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", value):
        return value
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
        raise ValueError(f"{value!r} has no revision; write {value}@<commit>, or @main for what it is today")
    raise ValueError(f"{value!r} is neither 'embedded', a folder (/..., ./...) nor <owner>/<name>@<revision>")


ModelReference = Annotated[str, AfterValidator(_model_reference)]
"""`embedded`, a folder that begins with `/` or `.`, or `<owner>/<name>@<revision>` on the hub."""


class Spec(BaseModel):
    """The base of all specs: frozen, and refusing fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EmbeddedSource(Spec):
    """Real text that every installation carries; nothing is downloaded."""

    kind: Literal["embedded"]
    corpus: Literal["package_readmes", "language_reference"]
    limit: int | None = Field(default=None, ge=1, description="documents at most")


class FilesSource(Spec):
    """Local Parquet or JSONL (plain, .gz, .zst) files."""

    kind: Literal["files"]
    paths: tuple[str, ...] = Field(min_length=1, description="files or glob patterns")
    text_column: str = "text"
    id_column: str | None = Field(default=None, description="default: an id from the text's hash")
    limit: int | None = Field(default=None, ge=1)


class HubSource(Spec):
    """A dataset on the Hugging Face hub, streamed."""

    kind: Literal["hub"]
    dataset: str
    revision: str
    subset: str | None = None
    split: str = "train"
    text_column: str = "text"
    id_column: str | None = None
    limit: int | None = Field(default=None, ge=1)


Source = Annotated[EmbeddedSource | FilesSource | HubSource, Field(discriminator="kind")]


class Sampling(Spec):
    """How completions are drawn; a value left out is the model's own generation_config's."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int = Field(ge=0, description="per-request seeds are derived from it, the row and the prompt")


class EmbeddedGenerator(Spec):
    """The recipe of the chat model that a study trains for itself (`model: embedded`).

    It learns from pairs (document, restructured document) that follow from the documents' own
    headings, lists, definitions and quantities.
    """

    sources: tuple[Name, ...] = Field(min_length=1)
    vocabulary: int = Field(ge=512, le=65_536, description="entries of its byte-level BPE tokenizer")
    layers: int = Field(ge=1)
    hidden: int = Field(ge=16)
    ffn: int = Field(ge=16)
    heads: int = Field(ge=1)
    steps: int = Field(ge=1, description="optimizer steps")
    batch_sequences: int = Field(ge=1)
    sequence: int = Field(ge=64, description="tokens a training sequence")
    learning_rate: float = Field(gt=0)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _divides(self) -> EmbeddedGenerator:
        _even_heads(self.hidden, self.heads)
        return self


class Generator(Spec):
    """The model that rephrases."""

    model: ModelReference
    context: int = Field(ge=128, description="tokens: prompt and completion together")
    max_tokens: int = Field(ge=1, description="tokens a completion may have")
    sampling: Sampling
    embedded: EmbeddedGenerator | None = Field(
        default=None, description="how the model is trained; used by `model: embedded` alone"
    )
    keep_raw: bool = Field(default=False, description="keep the completion before cleaning, in the column `raw`")
    engine: Mapping[str, str | int | float | bool] = Field(
        default_factory=dict, description="vLLM flags; those in EXECUTION_FLAGS are no identity"
    )

    @property
    def distribution_flags(self) -> dict[str, str | int | float | bool]:
        """The engine flags that are not known to leave the completions alone; they are identity."""
        return {name: value for name, value in self.engine.items() if name.replace("-", "_") not in EXECUTION_FLAGS}

    @property
    def gpus(self) -> int:
        """The GPUs that an engine of it holds: tensor, pipeline and data parallel ranks; 1 unless the study says."""
        flags = {name.replace("-", "_"): value for name, value in self.engine.items()}
        return math.prod(int(flags.get(f"{way}_parallel_size", 1)) for way in ("tensor", "pipeline", "data"))

    @model_validator(mode="after")
    def _fits(self) -> Generator:
        if self.max_tokens >= self.context:
            raise ValueError(f"max_tokens {self.max_tokens} leaves no room for a prompt in a context of {self.context}")
        if self.model == EMBEDDED and self.embedded is None:
            raise ValueError("model is 'embedded' but the section 'embedded' (how to train it) is missing")
        return self


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
        _even_heads(self.hidden, self.heads)
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


def _even_heads(hidden: int, heads: int) -> None:
    """Rotary positions turn pairs of a head's dimensions."""
    if hidden % heads or (hidden // heads) % 2:
        raise ValueError(f"hidden {hidden} must be an even multiple of heads {heads}")


def _known(field: str, name: str, names: Mapping[str, Any] | tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{field}: there is no {name!r}; known: {', '.join(names)}")


def _no_repeats(field: str, names: tuple[str, ...] | list[str]) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f"{field}: {', '.join(repeated)} stands more than once; partition names are unique")
