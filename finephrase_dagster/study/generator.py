"""Generators: the models that rephrase, how they are sampled, and their vLLM flags.

The flags are the only execution settings in a spec, because they depend on the model. `EXECUTION_FLAGS` lists those
that are not part of the identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field, model_validator

from finephrase_dagster.study.fields import EMBEDDED, ModelReference, Name, Seed, Spec, check_heads

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
"""vLLM flags that change how an engine runs but not the distribution of completions."""

PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""vLLM flags whose product is the number of GPUs of an engine."""


class Sampling(Spec):
    """How completions are sampled; a value that is left out comes from the model's own generation_config.json."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: Seed = Field(default=0, description="the seed of each request is derived from it, the row and the prompt")


class EmbeddedGenerator(Spec):
    """How to train the chat model of a study with `model: embedded`.

    It learns from pairs (document, restructured document) that are made from the documents' own headings, lists,
    definitions and quantities.
    """

    sources: tuple[Name, ...] = Field(min_length=1)
    vocabulary: int = Field(ge=512, le=65_536, description="entries of the byte-level BPE tokenizer")
    layers: int = Field(ge=1)
    hidden: int = Field(ge=16)
    ffn: int = Field(ge=16)
    heads: int = Field(ge=1)
    steps: int = Field(ge=1, description="optimizer steps")
    batch_sequences: int = Field(ge=1)
    sequence: int = Field(ge=64, description="tokens per training sequence")
    learning_rate: float = Field(gt=0)
    seed: Seed = 0

    @model_validator(mode="after")
    def _divides(self) -> EmbeddedGenerator:
        check_heads(self.hidden, self.heads)
        return self


class Throughput(Spec):
    """The known speed of a generator, for plans until this installation has measured it; not part of the identity."""

    tokens_per_second: float = Field(gt=0, description="output tokens per second and GPU")
    basis: str = Field(min_length=1, description="where the figure comes from")


class Generator(Spec):
    """The model that rephrases."""

    model: ModelReference
    context: int = Field(ge=128, description="most tokens of prompt and completion together")
    max_tokens: int = Field(ge=1, description="most tokens of a completion")
    sampling: Sampling = Sampling()
    embedded: EmbeddedGenerator | None = Field(
        default=None, description="how to train the model, for `model: embedded`"
    )
    keep_raw: bool = Field(default=False, description="also keep each completion before cleaning, in the column `raw`")
    parameters: float | None = Field(default=None, gt=0, description="for plans; not part of the identity")
    license: str | None = Field(default=None, description="of the completions; not part of the identity")
    throughput: Throughput | None = Field(default=None, description="for plans; not part of the identity")
    engine: Mapping[str, str | int | float | bool] = Field(
        default_factory=dict, description="vLLM flags; those in EXECUTION_FLAGS are not part of the identity"
    )

    @property
    def trained_here(self) -> bool:
        """Whether this study trains the model."""
        return self.model == EMBEDDED

    @property
    def distribution_flags(self) -> dict[str, str | int | float | bool]:
        """The engine flags that may change the distribution of completions; they are part of the identity."""
        return {name: value for name, value in self.engine.items() if name.replace("-", "_") not in EXECUTION_FLAGS}

    @property
    def gpus(self) -> int:
        """The number of GPUs of one engine: the product of tensor, pipeline and data parallel ranks; 1 by default."""
        flags = {name.replace("-", "_"): value for name, value in self.engine.items()}
        return math.prod(int(flags.get(name, 1)) for name in PARALLEL)

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
        if self.model == EMBEDDED and self.embedded is None:
            raise ValueError("model is 'embedded', so the study trains it; add the section 'embedded'")
        return self
