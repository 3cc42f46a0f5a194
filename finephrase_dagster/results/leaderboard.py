"""The leaderboard of a study: its mixtures compared by the benchmark scores of their students."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import duckdb

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, Contents, write_json
from finephrase_dagster.artifacts.fingerprint import fingerprint, plain
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.key import MIXTURE
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.evaluate.benchmark import CATEGORIES
from finephrase_dagster.evaluate.evaluation import SAMPLES
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.results.comparison import Interval, Variant, compared
from finephrase_dagster.results.early import look_early
from finephrase_dagster.results.scored_runs import ScoredRun, common_scores, read_runs
from finephrase_dagster.results.warehouse import key_of, mark_current, record_manifests, recorded

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
    """Compare all finished student runs of a study, which `record_study` has recorded in the warehouse."""
    finishing = set(lineage.finishing_runs())
    runs = [run for run in read_runs(connection, [lineage.study.name]) if run.run in finishing]
    mixtures = {name: lineage.mixture_manifest(name) for name in {run.mixture for run in runs}}
    manifests = {run: lineage.scores(run).manifest() for run in finishing}
    return Leaderboard(
        rows=compared(ranked(runs), mixtures, lineage.study.sources, _intervals(lineage, manifests)),
        early=[
            {**asdict(look), "regret": {f"{part:g}": lost for part, lost in look.regret.items()}}
            for look in look_early(_curves(manifests))
        ],
    )


def ranked(runs: Iterable[ScoredRun]) -> list[dict[str, Any]]:
    """Return the mean scores per mixture, student and variant, best macro score first, then by micro score.

    Returns:
        One row per mixture, student and variant: `mixture`, `student`, `decay_from` (None: trained from scratch),
        `seeds` (number of student runs), `macro` and its sample standard deviation over seeds `macro_sd` (None for one
        seed), `micro`, `categories`, and `tasks`. `macro` is None where tasks are missing.
    """
    arms: dict[Variant, list[ScoredRun]] = {}
    for run in runs:
        arms.setdefault((run.mixture, run.student, run.decay_from), []).append(run)
    rows = []
    for (mixture, student, decay_from), seeds in arms.items():
        means = {name: fmean(values) for name, values in common_scores(seeds).items()}
        macros = common_scores(seeds).get("macro", [])
        rows.append(
            {
                "mixture": mixture,
                "student": student,
                "decay_from": decay_from,
                "seeds": len(seeds),
                "macro": means.get("macro"),
                "macro_sd": stdev(macros) if len(macros) > 1 else None,
                "micro": means.get("micro"),
                "categories": {name: means[name] for name in CATEGORIES if name in means},
                "tasks": {name: means[name] for name in benchmarks() if name in means},
            }
        )
    return sorted(rows, key=lambda row: (-(row["macro"] or 0.0), -(row["micro"] or 0.0), row["mixture"]))


def record_study(lineage: Lineage, connection: duckdb.DuckDBPyConnection) -> int:
    """Record the artifacts of a study that exist and are not recorded yet, and that the study refers to them now.

    Returns:
        The number of artifacts that were not recorded before.
    """
    complete = list(_complete(lineage))
    known = recorded(connection)
    added = [artifact for artifact in complete if key_of(artifact) not in known]
    record_manifests(connection, ((key_of(artifact), artifact.manifest()) for artifact in added))
    mark_current(
        connection, lineage.study.name, ((key_of(artifact), _names(lineage, artifact)) for artifact in complete)
    )
    return len(added)


def _names(lineage: Lineage, artifact: Artifact) -> dict[str, Any]:
    """Return what the study's names for an artifact mean."""
    key = artifact.key
    names = {name: value for name in ("generator", "source", "prompt") if (value := getattr(key, name)) is not None}
    if key.kind is MIXTURE:
        parts = lineage.parts(artifact.key.mixture or "")
        names["components"] = {
            version: {"name": part.name, "original": part.audit is None} for version, part in parts.items()
        }
    elif key.run is not None:
        run, recipe = lineage.study.student_runs[key.run], plain(artifact.recipe)
        student = lineage.study.students[run.student]
        names |= {
            "mixture": run.mixture,
            "student": run.student,
            "data_seed": run.seeds.data,
            "model_seed": run.seeds.model,
            "seed": f"data {run.seeds.data}, model {run.seeds.model}",
            "decay_from": run.decay_from,
            "parameters": student.parameters(lineage.vocabulary),
            "evaluation": _evaluation(recipe),
            "samples": str(artifact.folder / SAMPLES),
        }
    return names


def _evaluation(recipe: Mapping[str, Any]) -> str:
    """Return what computes scores, and on which items, in words."""
    if "items" not in recipe:
        return ""
    engine = " ".join(str(value) for value in recipe.get("engine", {}).values())
    backend = f"{recipe.get('backend', 'transformers')} {engine}".strip()
    items = fingerprint(recipe["items"])[:8]
    return f"{backend}, {recipe['shots']} shots, at most {recipe['samples']} items of {items}"


def _complete(lineage: Lineage) -> Iterator[Artifact]:
    """Yield the complete artifacts that a study refers to."""
    for item in items(lineage):
        with contextlib.suppress(ArtifactMissing, StoppedEarly):
            if (artifact := item.artifact()).complete:
                yield artifact


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
