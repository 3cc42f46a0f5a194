"""What MLflow shows of a student, as a value."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.key import EARLY_STUDENT, PRE_DECAY_CHECKPOINT

LAYOUT = "1"
"""To be changed with what runs show, so that `finephrase results mlflow` completes those that exist."""
UNFINISHED = {PRE_DECAY_CHECKPOINT: " (pre-decay)", EARLY_STUDENT: " (early)"}
"""Suffixes of the names of runs whose students are not fully trained."""

Point = tuple[str, int, float]
"""The name of a metric, a step, and the value."""


@dataclass(frozen=True, kw_only=True)
class UsedDataset:
    """A dataset that a student was trained on: `profile` has its figures."""

    name: str
    digest: str
    folder: Path
    profile: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """What a run shows besides metrics and files.

    Attributes:
        arm: the name of its parent run.
        current: the names of all runs and arms that the study has now.
        origin: further tags, which say where the run was made and do not count as a change.
    """

    arm: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    datasets: Sequence[UsedDataset] = ()
    current: Collection[str] = ()
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudentRecord:
    """Everything that MLflow shows of a finished student.

    Attributes:
        files: content by file name, of this run.
        shared_files: of its mixture, for the parent run.
        seconds: duration of the training.
    """

    artifact: Artifact
    about: RunDescription
    points: Sequence[Point] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    shared_files: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @cached_property
    def digest(self) -> str:
        """The hash of what its run shows."""
        return digest_of(self.about, self.about.params, self.points, self.files)


def run_name(artifact: Artifact) -> str:
    """Return the name of a run: the student run's, with a suffix if the student is not fully trained."""
    return f"{artifact.key.run}{UNFINISHED.get(artifact.key.kind, '')}"


def digest_of(
    about: RunDescription, params: Mapping[str, Any], points: Sequence[Point], files: Mapping[str, str]
) -> str:
    """Return a hash of what a run shows."""
    datasets = [[used.name, used.digest, str(used.folder), used.profile] for used in about.datasets]
    texts = {name: str(value) for name, value in params.items()}
    shown = [LAYOUT, about.arm, dict(about.tags), texts, datasets, [list(point) for point in points], dict(files)]
    return fingerprint(json.loads(as_json(shown)))


def as_json(value: object) -> str:
    """Return a value as JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, default=str)
