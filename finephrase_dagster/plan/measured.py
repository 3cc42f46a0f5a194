"""Figures that this installation has measured itself, read from the manifests of its artifacts."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import FOLDERS, labelled_manifest, manifest_facts
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.key import CHECKPOINT, DATASET, Kind
from finephrase_dagster.study.student import Student

NEWEST = 2_000
"""Manifests of a kind that are read, so that a plan takes no longer the more has been made."""
LONG_ENOUGH = 10.0  # seconds of work; in less, a stage's start-up dominates its pace


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A measured or published throughput.

    Attributes:
        tokens_per_second: of one GPU, or of this machine where no GPU was used.
        tokens: number of tokens that it was measured on.
    """

    tokens_per_second: float
    on_gpu: bool
    tokens: float = 0.0


class Measured:
    """The figures in an installation's manifests, by whatever recipe their artifacts were made."""

    def __init__(self, data: Path) -> None:
        """Remember the folder of all artifacts; manifests are read when they are needed."""
        self._data = data
        self._manifests = cache(self._read_manifests)
        self.training = cache(self._training)
        self.seconds = cache(self._seconds)
        self.pace = cache(self._pace)

    def generation(self, model: str) -> Rate | None:
        """Return how fast a generator generated.

        Args:
            model: the version of its model.
        """
        names = ("completion_tokens", "tokens_per_second", "gpus")  # a rate of unknown hardware does not count
        return _rate([number(manifest.get("run"), name) for name in names] for manifest in self._of_model(model))

    def completion(self, model: str, prompt: str, max_tokens: int) -> tuple[float, int] | None:
        """Return the mean tokens per completion of this model for a prompt, and the number of completions.

        All texts that the prompt ever had count. Completions with a limit below `max_tokens` do not count, because
        they may have been cut off.
        """
        rows = tokens = 0.0
        for manifest in self._of_model(model):
            recipe = manifest["recipe"]
            if recipe.get("prompt") == prompt:
                completed, written = (number(manifest, name) for name in ("completed", "completion_tokens"))
                if completed and written and (number(recipe, "max_tokens") or 0) >= max_tokens:
                    rows += completed
                    tokens += written
        return (tokens / rows, round(rows)) if rows else None

    def _training(self, student: Student) -> Rate | None:
        """Return how fast students of this shape trained."""
        shape = plain(student)
        students = (one for one in self._manifests(CHECKPOINT.code) if one["recipe"].get("student") == shape)
        names = ("tokens", "tokens_per_second")
        return _rate([*(number(one, name) for name in names), number(one, "gpus") or 0.0] for one in students)

    def _seconds(self, kind: Kind) -> float | None:
        """Return the mean seconds that the artifacts of a kind took to make."""
        times = [number(manifest, "seconds") for manifest in self._manifests(kind.code)]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) / len(known) if known else None

    def _pace(self, kinds: tuple[Kind, ...], counted: str) -> float | None:
        """Return units of work per second; None until enough work has been measured.

        Args:
            kinds: the kinds of items that count.
            counted: the field of their manifests that counts units, such as `rows`.
        """
        done = seconds = 0.0
        for manifest in (manifest for code in {kind.code for kind in kinds} for manifest in self._manifests(code)):
            made, taken = number(manifest, counted), number(manifest, "seconds")
            if made and taken:
                done += made
                seconds += taken
        return done / seconds if seconds >= LONG_ENOUGH else None

    def _of_model(self, model: str) -> Iterable[dict[str, Any]]:
        return (manifest for manifest in self._manifests(DATASET.code) if manifest["recipe"].get("model") == model)

    def _read_manifests(self, code: str) -> list[dict[str, Any]]:
        """Return the facts of the newest readable manifests of a kind, oldest first, with what the recipe says."""
        try:
            with os.scandir(self._data / FOLDERS / code) as folders:
                newest = heapq.nlargest(NEWEST, ((folder.stat().st_mtime, folder.path) for folder in folders))
        except OSError:
            return []
        manifests = []
        for _, folder in reversed(newest):
            if manifest := labelled_manifest(Path(folder)):
                recipe = manifest["recipe"]
                prompt = recipe.get("prompt")
                known = {name: recipe.get(name) for name in ("model", "max_tokens", "student")}
                known["prompt"] = prompt.get("name") if isinstance(prompt, dict) else None
                manifests.append({**manifest_facts(manifest), "recipe": known})
        return manifests


def _rate(runs: Iterable[Sequence[float | None]]) -> Rate | None:
    """Return the rate of runs together, given the tokens, the tokens per second of one GPU, and the GPUs of each."""
    tokens = seconds = 0.0
    on_gpu = False
    for written, rate, gpus in runs:
        if written and rate and gpus is not None:
            on_gpu = gpus > 0
            tokens += written
            seconds += written / rate * max(gpus, 1)
    return Rate(tokens_per_second=tokens / seconds, on_gpu=on_gpu, tokens=tokens) if seconds else None


def number(fields: Any, name: str) -> float | None:
    """Return a finite number of a manifest; None where there is none."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
