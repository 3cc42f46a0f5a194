"""Figures that this installation has measured itself, read from the manifests of its artifacts."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import MANIFEST
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.key import CHECKPOINT, CORPUS, DATASET, Kind
from finephrase_dagster.study.component import cell_name
from finephrase_dagster.study.student import Student

EVERY_CELL = cell_name("*", "*")
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

    def generation(self, generator: str, model: str) -> Rate | None:
        """Return how fast a generator generated.

        Args:
            generator: its name in the study.
            model: the version of its model; other models of that name do not count.
        """
        tokens = seconds = 0.0
        on_gpu = False
        for manifest in self._of_generator(generator, model):
            run = manifest.get("run")
            written, rate, gpus = (number(run, name) for name in ("completion_tokens", "tokens_per_second", "gpus"))
            if written and rate and gpus is not None:  # a rate of unknown hardware does not count
                on_gpu = gpus > 0
                tokens += written
                seconds += written / rate * max(gpus, 1)
        return Rate(tokens_per_second=tokens / seconds, on_gpu=on_gpu, tokens=tokens) if seconds else None

    def completion(self, generator: str, model: str, prompt: str, max_tokens: int) -> tuple[float, int] | None:
        """Return the mean tokens per completion of this model for a prompt, and the number of completions.

        All texts that the prompt ever had count. Completions with a limit below `max_tokens` do not count, because
        they may have been cut off.
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
        """Return how fast students of this shape trained."""
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
    """Return a finite number of a manifest; None where there is none."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
