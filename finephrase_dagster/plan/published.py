"""Figures that plans count with: the published ones, and what this installation has measured itself."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from finephrase_dagster.artifacts.artifact import MANIFEST
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.key import CHECKPOINT, CORPUS, DATASET, Kind
from finephrase_dagster.study.component import cell_name
from finephrase_dagster.study.fields import Spec
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.student import Student

EVERY_CELL = cell_name("*", "*")
LONG_ENOUGH = 10.0  # seconds, below which what a stage does besides its work says more of its pace
PUBLISHED = SHIPPED / "studies" / "figures.yaml"


class TrainingFigure(Spec):
    """One training whose price is known."""

    parameters: float = Field(gt=0)
    tokens: float = Field(gt=0)
    gpu_hours: float = Field(gt=0)


class EarlyFigure(Spec):
    """What stopping students early would have cost the published study.

    Attributes:
        part: of the training, at which they are compared.
        keep: the part of them that goes on.
        rank_correlation: Spearman's, of the macro scores there with the final ones.
        regret: how much lower the best final score would have been, in the mean over resamples of the students.
    """

    part: float = Field(gt=0, lt=1)
    keep: float = Field(gt=0, lt=1)
    rank_correlation: float = Field(ge=-1, le=1)
    regret: float = Field(ge=0)


class Published(Spec):
    """The published study's figures.

    Attributes:
        input_tokens: of a filled prompt, by source.
        output_tokens: of a completion, by source, prompt and generator.
    """

    input_tokens: Mapping[str, float]
    output_tokens: Mapping[str, Mapping[str, Mapping[str, float]]]
    training: TrainingFigure
    early_looks: tuple[EarlyFigure, ...] = Field(min_length=1)
    gpu_hour_dollars: float = Field(ge=0)

    @classmethod
    def read(cls, path: Path = PUBLISHED) -> Published:
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))

    def completion(self, source: str, prompt: str, generator: str) -> tuple[float, str] | None:
        """Mean tokens of a completion and whose figure that is; the nearest run there is, None without any."""
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
        """The figure of the nearest look that is no later and keeps no more; None without one."""
        fitting = [look for look in self.early_looks if look.part <= part and look.keep <= keep]
        return max(fitting, key=lambda look: (look.part, look.keep), default=None)

    def _runs(self) -> Iterator[tuple[str, str, str, float]]:
        for source, prompts in self.output_tokens.items():
            for prompt, generators in prompts.items():
                for generator, value in generators.items():
                    yield source, prompt, generator, value


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast something ran: tokens a second, of one GPU, or of this machine where it used none.

    Attributes:
        tokens: over which it was measured.
    """

    tokens_per_second: float
    on_gpu: bool
    tokens: float = 0.0


class Measured:
    """What the manifests of an installation tell, of all recipes that were ever made."""

    def __init__(self, data: Path) -> None:
        """Reads nothing yet.

        Args:
            data: the folder of all artifacts.
        """
        self._data = data
        self._manifests = cache(self._read_manifests)

    def generation(self, generator: str, model: str) -> Rate | None:
        """How fast a generator wrote.

        Args:
            generator: its name.
            model: the version of its model; what another model of that name did counts for nothing.
        """
        tokens = seconds = 0.0
        on_gpu = False
        for manifest in self._of_generator(generator, model):
            run = manifest.get("run")
            written, rate, gpus = (number(run, name) for name in ("completion_tokens", "tokens_per_second", "gpus"))
            if written and rate and gpus is not None:  # where nobody said what it ran on, it says nothing
                on_gpu = gpus > 0
                tokens += written
                seconds += written / rate * max(gpus, 1)
        return Rate(tokens_per_second=tokens / seconds, on_gpu=on_gpu, tokens=tokens) if seconds else None

    def completion(self, generator: str, model: str, prompt: str, max_tokens: int) -> tuple[float, int] | None:
        """Mean tokens of this model's completions for a prompt, whatever its text was, and how many they were.

        Completions under a smaller limit than `max_tokens` do not count: they may have been cut off.
        """
        rows = tokens = 0.0
        for manifest in self._of_generator(generator, model):
            recipe = manifest["recipe"]
            named = recipe.get("prompt")
            if isinstance(named, dict) and named.get("name") == prompt:
                completed, written = (number(manifest, name) for name in ("completed", "completion_tokens"))
                if completed and written and (number(recipe, "max_tokens") or 0) >= max_tokens:
                    rows += completed
                    tokens += written
        return (tokens / rows, round(rows)) if rows else None

    def training(self, student: Student) -> Rate | None:
        """How fast students of this shape trained."""
        shape = plain(student)
        tokens = seconds = 0.0
        on_gpu = False
        for manifest in self._manifests(CHECKPOINT):
            seen, rate = (number(manifest, name) for name in ("tokens", "tokens_per_second"))
            if manifest["recipe"].get("student") == shape and seen and rate:
                gpus = number(manifest, "gpus") or 0
                on_gpu = gpus > 0
                tokens += seen
                seconds += seen / rate * max(gpus, 1)
        return Rate(tokens_per_second=tokens / seconds, on_gpu=on_gpu, tokens=tokens) if seconds else None

    def seconds(self, kind: Kind, partition: str = "*") -> float | None:
        """Return the mean seconds that the artifacts of a kind, or of one of its partitions, took to make."""
        times = [number(manifest, "seconds") for manifest in self._manifests(kind, partition=partition)]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) / len(known) if known else None

    def pace(self, kinds: Iterable[Kind], counted: str) -> float | None:
        """Return units of work per second; None until enough work has been measured.

        Args:
            kinds: the kinds of items that count.
            counted: the field of their manifests that counts units, such as `rows`.
        """
        done = seconds = 0.0
        for manifest in (manifest for kind in kinds for manifest in self._manifests(kind)):
            made, taken = number(manifest, counted), number(manifest, "seconds")
            if made and taken:
                done += made
                seconds += taken
        return done / seconds if seconds >= LONG_ENOUGH else None

    def last_corpus(self, source: str) -> dict[str, Any] | None:
        """Return the newest manifest of a corpus, by whatever recipe."""
        return next(reversed(self._manifests(CORPUS, partition=glob.escape(source))), None)

    def _of_generator(self, generator: str, model: str) -> Iterator[dict[str, Any]]:
        for manifest in self._manifests(DATASET, cell=cell_name(glob.escape(generator), "*")):
            if manifest["recipe"].get("model") == model:
                yield manifest

    def _read_manifests(self, kind: Kind, cell: str = EVERY_CELL, partition: str = "*") -> list[dict[str, Any]]:
        """Return the readable manifests of a kind, oldest first; `cell` and `partition` may be patterns."""
        parts = (*kind.asset_path(cell), *([partition] if kind.partitioned_by else []), "*", MANIFEST)
        manifests = []
        for path in sorted(self._data.glob("/".join(parts)), key=lambda path: path.stat().st_mtime):
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(manifest, dict) and isinstance(manifest.get("recipe"), dict):
                manifests.append(manifest)
        return manifests


def number(fields: Any, name: str) -> float | None:
    """A finite number in a manifest; None where there is none."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
