"""Figures that plans count with: the published ones, and what this installation has measured itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from finephrase_dagster.artifacts.artifact import MANIFEST
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.study.fields import Spec
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.student import Student

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
        for manifest in self._manifests("training/checkpoint"):
            seen, rate = (number(manifest, name) for name in ("tokens", "tokens_per_second"))
            if manifest["recipe"].get("student") == shape and seen and rate:
                gpus = number(manifest, "gpus") or 0
                on_gpu = gpus > 0
                tokens += seen
                seconds += seen / rate * max(gpus, 1)
        return Rate(tokens_per_second=tokens / seconds, on_gpu=on_gpu, tokens=tokens) if seconds else None

    def seconds(self, asset: str, partition: str | None = None) -> float | None:
        """Mean seconds that an asset's artifacts took to make; of one partition alone, if one is said."""
        of_asset = self._manifests(asset)
        taken = [
            seconds
            for manifest in of_asset
            if partition is None or manifest["partition"] == partition
            if (seconds := number(manifest, "seconds")) is not None
        ]
        return sum(taken) / len(taken) if taken else None

    def pace(self, stage: str, counted: str) -> float | None:
        """How many of what its manifests count a stage made in a second; None before it has worked long enough.

        Args:
            stage: the first part of its assets' names.
            counted: the name of a number in its manifests.
        """
        done = seconds = 0.0
        for asset, manifests in self._by_asset.items():
            for manifest in manifests if asset.startswith(f"{stage}/") else ():
                made, taken = number(manifest, counted), number(manifest, "seconds")
                if made and taken:
                    done += made
                    seconds += taken
        return done / seconds if seconds >= LONG_ENOUGH else None

    def last(self, asset: str, partition: str) -> dict[str, Any] | None:
        """The manifest of a partition that was written last, whatever its recipe."""
        return next((m for m in reversed(self._manifests(asset)) if m["partition"] == partition), None)

    def _of_generator(self, generator: str, model: str) -> Iterator[dict[str, Any]]:
        for asset in sorted(self._by_asset):
            if asset.startswith(f"synthetic/{generator}__"):
                for manifest in self._by_asset[asset]:
                    if manifest["recipe"].get("model") == model:
                        yield manifest

    def _manifests(self, asset: str) -> list[dict[str, Any]]:
        return self._by_asset.get(asset, [])

    @cached_property
    def _by_asset(self) -> dict[str, list[dict[str, Any]]]:
        """The readable manifests, oldest first, by asset; each with its `partition`."""
        found: dict[str, list[dict[str, Any]]] = {}
        paths = [*self._data.glob(f"*/*/*/{MANIFEST}"), *self._data.glob(f"*/*/*/*/{MANIFEST}")]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime):
            group, asset, *partition = path.relative_to(self._data).parts[:-3]
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if not isinstance(manifest, dict) or not isinstance(manifest.get("recipe"), dict):
                continue
            manifest["partition"] = partition[0] if partition else None
            found.setdefault(f"{group}/{asset}", []).append(manifest)
        return found


def number(fields: Any, name: str) -> float | None:
    """A finite number in a manifest; None where there is none."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
