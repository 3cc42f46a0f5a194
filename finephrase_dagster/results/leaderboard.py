"""The leaderboard of a study: its mixtures compared by the benchmark scores of their students."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, Contents, write_json
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.key import AUDIT, SCORES
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.results.comparison import Interval, Variant, compared
from finephrase_dagster.results.early import look_early
from finephrase_dagster.results.warehouse import (
    leaderboard,
    mark_current,
    record_audit,
    record_manifests,
    record_scores,
    recorded,
)

Manifests = Mapping[str, Mapping[str, Any]]
"""Manifests of benchmark scores by student run."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The compared mixtures and how well early scores predict final ones.

    Attributes:
        rows: one per mixture, student and variant, best first; see `comparison.compared`.
        early: one per step at which students were scored before their end; see `early.EarlyLook`.
    """

    rows: list[dict[str, Any]]
    early: list[dict[str, Any]]

    def write(self, folder: Path) -> Contents:
        """Fill the folder of the leaderboard's artifact."""
        write_json(folder / "leaderboard.json", self.rows)
        write_json(folder / "early.json", self.early)
        return Contents(files=folder.glob("*.json"), facts={"rows": len(self.rows)})


def compose_leaderboard(lineage: Lineage, connection: duckdb.DuckDBPyConnection) -> Leaderboard:
    """Compare all finished student runs of a study.

    The scores are read from the artifacts and recorded in the warehouse first, which may be younger than the artifacts.
    """
    artifacts = {run: lineage.scores(run) for run in lineage.finishing_runs()}
    for artifact in artifacts.values():
        record_run_scores(lineage, artifact, connection)
    ranked = leaderboard(connection, artifacts.values())
    mixtures = {name: lineage.mixture_manifest(name) for name in {row["mixture"] for row in ranked}}
    manifests = {run: artifact.manifest() for run, artifact in artifacts.items()}
    return Leaderboard(
        rows=compared(ranked, mixtures, lineage.study.sources, _intervals(lineage, manifests)),
        early=[
            {**asdict(look), "regret": {f"{part:g}": lost for part, lost in look.regret.items()}}
            for look in look_early(_curves(manifests))
        ],
    )


def record_study(lineage: Lineage, connection: duckdb.DuckDBPyConnection) -> int:
    """Record the artifacts of a study that exist and are not recorded yet, and that the study refers to them now.

    Returns:
        The number of artifacts that were not recorded before.
    """
    complete = list(_complete(lineage))
    known = recorded(connection)
    added = [one for one in complete if (one.fingerprint, one.key.asset, one.key.partition or "") not in known]
    record_manifests(connection, added)
    for artifact in added:
        if artifact.key.kind is AUDIT:
            record_audit(connection, artifact)
        elif artifact.key.kind is SCORES:
            record_run_scores(lineage, artifact, connection)
    mark_current(connection, lineage.study.name, complete)
    return len(added)


def _complete(lineage: Lineage) -> Iterator[Artifact]:
    """Yield the complete artifacts that a study refers to."""
    for item in items(lineage):
        with contextlib.suppress(ArtifactMissing, StoppedEarly):
            if (artifact := item.artifact()).complete:
                yield artifact


def record_run_scores(lineage: Lineage, artifact: Artifact, connection: duckdb.DuckDBPyConnection) -> None:
    """Record the benchmark scores of a student run in the warehouse."""
    assert artifact.key.run is not None
    scores = artifact.manifest()
    record_scores(
        connection,
        artifact,
        lineage.study.student_runs[artifact.key.run],
        tasks={task: (score["mean"], score["n"]) for task, score in scores["tasks"].items()},
        categories=scores["categories"],
        micro=scores["micro"],
        macro=scores["macro"],
    )


def _intervals(lineage: Lineage, scores: Manifests) -> dict[Variant, list[Interval]]:
    """Return the intervals of the macro scores by mixture, student and variant."""
    intervals: dict[Variant, list[Interval]] = {}
    for name, manifest in scores.items():
        if manifest["macro_interval"] is not None:
            run = lineage.study.student_runs[name]
            low, high = manifest["macro_interval"]
            intervals.setdefault((run.mixture, run.student, run.decay_from), []).append((low, high))
    return intervals


def _curves(scores: Manifests) -> dict[str, dict[int, float]]:
    """Return the macro scores by run and step; steps where tasks are missing are left out."""
    return {
        run: {point["step"]: point["macro"] for point in manifest["curve"] if point["macro"] is not None}
        for run, manifest in scores.items()
    }
