"""The sweep file: which settings are measured, on how much work, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from finephrase_dagster.artifacts.engine_flags import EXECUTION_FLAGS
from finephrase_dagster.study.fields import InvalidFields, Spec, validation_problems
from finephrase_dagster.study.file import STUDIES, file_error, read_fields
from finephrase_dagster.study.generator import PARALLEL
from finephrase_dagster.throughput.setting import SPECULATION, SPECULATIONS, Value

SWEEP_FILE = STUDIES / "sweep.yaml"

COUNTS = (*PARALLEL, "max_num_seqs", "max_num_batched_tokens")
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0)]


class SweepSpec(Spec):
    """What a sweep measures; `studies/sweep.yaml` explains the fields."""

    documents: Count
    concurrency: tuple[Annotated[int, Field(ge=1, le=20_000)], ...] = Field(min_length=1)
    tiers: tuple[Mapping[str, list[Value]], ...] = Field(min_length=1)
    replicates: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(default=(1, 2, 4), min_length=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    warmup_documents: Count = 8
    seconds: Seconds = 120.0
    start_seconds: Seconds = 1800.0
    measure_seconds: Seconds = 3600.0

    @field_validator("replicates")
    @classmethod
    def _grow(cls, replicates: tuple[int, ...]) -> tuple[int, ...]:
        if list(replicates) != sorted(set(replicates)) or replicates[-1] < 2:
            raise ValueError(f"{list(replicates)} must grow and end with 2 or more: one run alone has no interval")
        return replicates

    @field_validator("tiers")
    @classmethod
    def _leave_completions_alone(cls, tiers: tuple[Mapping[str, list[Value]], ...]) -> object:
        for axis, values in ((axis, values) for tier in tiers for axis, values in tier.items()):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{axis}: write each value once, and at least one")
            if axis != SPECULATION and axis not in EXECUTION_FLAGS:
                raise ValueError(
                    f"{axis!r} cannot be swept: write {SPECULATION!r} or a vLLM flag that leaves completions alone, "
                    "such as max_num_seqs. What changes completions belongs in the generator's 'engine' in the study"
                )
            if wrong := [value for value in values if axis in COUNTS and (type(value) is not int or value < 1)]:
                raise ValueError(f"{axis}: {wrong[0]!r} must be a whole number, 1 or more")
            if unknown := [value for value in values if axis == SPECULATION and not SPECULATIONS.fullmatch(str(value))]:
                raise ValueError(f"{axis}: {unknown[0]!r} is unknown; write none, ngram_6 or suffix_32, for example")
        return tiers


def read_sweep(path: Path = SWEEP_FILE) -> SweepSpec:
    """Read a sweep file.

    Raises:
        StudyError: there is no such file, or it is wrong; the message names the line and what to write.
    """
    fields = read_fields(path, "sweep", example="studies/sweep.yaml")
    try:
        return SweepSpec.model_validate(fields)
    except ValidationError as error:
        raise file_error(path, validation_problems(error, fields)) from error
    except InvalidFields as error:
        raise file_error(path, error.problems) from error
