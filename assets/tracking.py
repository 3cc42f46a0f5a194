"""Students in MLflow: what their runs show while a student trains and afterwards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg

from assets.previews import completions, pairs_markdown
from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, Contents
from finephrase_dagster.artifacts.graph import items, state
from finephrase_dagster.artifacts.key import CHECKPOINT, EARLY_STUDENT, PRE_DECAY_CHECKPOINT, SCORES, Kind
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.evaluate.categories import partial_words, unscored_tasks
from finephrase_dagster.evaluate.metric import point_scores
from finephrase_dagster.orchestration.events import latest_runs
from finephrase_dagster.results.analysis import verdict_words
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.student import arm_name
from finephrase_dagster.train.job import LossCallback
from resources.evaluator import curve_point
from resources.nested_runs import CURVES, TAG_LIMIT, is_complete
from resources.student_record import UNFINISHED, Point, RunDescription, StudentRecord, UsedDataset, run_name
from resources.tracking import Tracking

PROFILE = ("tokens_available", "tokens", "weight", "epochs")
METRICS = ("tokens", "tokens_per_second", "final_loss", "steps")
STUDENTS = (EARLY_STUDENT, PRE_DECAY_CHECKPOINT, CHECKPOINT)
ORIGINS: Mapping[Kind, str] = {SCORES: "dagster.scores_run_id"}
"""The tag with the Dagster run that made an item; `dagster.run_id` for a student."""


def watched(
    context: dg.AssetExecutionContext,
    tracking: Tracking,
    lineage: Lineage,
    artifact: Artifact,
    train: Callable[[Path, LossCallback], Contents],
) -> dict[str, Any]:
    """Return the manifest of a student after training it if necessary; MLflow shows its loss meanwhile."""

    def make(folder: Path) -> Contents:
        about = _about(lineage, artifact, {"dagster.run_id": context.run_id})
        with tracking.recording(artifact, about, warn=context.log.warning) as on_loss:
            return train(folder, on_loss)

    return artifact.materialize(make)


def tracked(
    context: dg.AssetExecutionContext, tracking: Tracking, lineage: Lineage, artifact: Artifact, of: Kind
) -> str | None:
    """Record a student with its scores, if they exist, in MLflow; return a link to its run.

    Args:
        of: the kind of the item that the Dagster run made.
    """

    def complete() -> str:
        record = student_record(lineage, artifact, {ORIGINS.get(of, "dagster.run_id"): context.run_id})
        (run_id,) = tracking.complete([record])
        return run_id

    return tracking.link(artifact, tracking.attempt(artifact, complete, warn=context.log.warning))


def record_students(
    tracking: Tracking, lineage: Lineage, instance: dg.DagsterInstance, log: Callable[[str], None] = lambda line: None
) -> int:
    """Record what exists of a study in MLflow, arm by arm; return the number of students.

    Runs that show everything already stay as they are, those of other studies' names or recipes become superseded.
    """
    lineage, records = lineage.snapshot(), []
    runs = {kind: latest_runs(instance, dg.AssetKey(kind.path)) for kind in (*STUDENTS, SCORES)}
    for item in items(lineage):
        if item.key.kind in STUDENTS and state(item).status == "current":
            origin = {"dagster.run_id": runs[item.key.kind].get(item.partition or "")}
            origin |= {tag: runs[kind].get(item.partition or "") for kind, tag in ORIGINS.items()}
            known = {tag: run for tag, run in origin.items() if run}
            records.append(student_record(lineage, item.artifact(), known))
    with tracking.runs() as existing:
        existing.end_orphans()
        existing.retire(_current(lineage))
        shown = {run.info.run_name: run for run in existing.all()}
    missing = sorted(
        (each for each in records if not is_complete(shown.get(run_name(each.artifact)), each)),
        key=lambda record: record.about.arm,
    )
    for arm, of_arm in groupby(missing, key=lambda record: record.about.arm):
        log(f"{arm}: {len(tracking.complete(list(of_arm)))} runs")
    with contextlib.suppress(ArtifactMissing, FileNotFoundError):
        _mark_verdicts(tracking, json.loads((lineage.leaderboard().folder / "leaderboard.json").read_bytes()))
    return len(records)


def student_record(lineage: Lineage, artifact: Artifact, origin: Mapping[str, str]) -> StudentRecord:
    """Return everything that MLflow shows of a finished student."""
    manifest, run = artifact.manifest(), lineage.study.student_runs[artifact.key.run or ""]
    points: list[Point] = [(name, point["step"], point[name]) for name in CURVES for point in manifest["curve"]]
    points += [(name, manifest["steps"], manifest[name]) for name in METRICS]
    if artifact.key.kind is CHECKPOINT and (scores := lineage.scores(run.name)).complete:
        points += _scores(scores.manifest(), manifest["steps"])
    mixture = lineage.mixture_manifest(run.mixture)
    files = {"mixture.json": _json(mixture), "manifest.json": _json({**manifest, "curve": [], "files": []})}
    versions = sorted({f"{name}=={version}" for made in manifest["made_with"] for name, version in made.items()})
    about = _about(lineage, artifact, origin)
    return StudentRecord(
        artifact=artifact,
        about=about,
        points=points,
        files={**files, "environment.txt": "\n".join([*versions, ""])},
        shared_files={"mixture.json": files["mixture.json"], **_mixture_files(lineage, run.mixture)},
        seconds=manifest["seconds"],
    )


def _mark_verdicts(tracking: Tracking, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add to the arms in MLflow what the leaderboard's rows conclude."""
    marks = {}
    for place, row in enumerate(rows, start=1):
        verdict = row["against_original"]
        against = {"verdict": verdict_words(verdict), "baseline": verdict["baseline"]} if verdict else {}
        difference = (
            {} if not verdict or verdict["difference"] is None else {"difference": f"{verdict['difference']:+.4f}"}
        )
        found = {"place": str(place), **against, **difference}
        arm = arm_name(row["mixture"], row["student"], row["decay_from"])
        marks[arm] = {f"finephrase.{name}": text for name, text in found.items()}
    with tracking.runs() as runs:
        runs.mark_arms(marks)


def _scores(scores: Mapping[str, Any], last: int) -> list[Point]:
    """Return the scores of all evaluated steps."""
    curve = {point["step"]: point for point in scores["curve"]}
    return [
        (name, step, value)
        for step, point in {**curve, last: curve_point(scores)}.items()
        for name, value in point_scores(point).items()
    ]


def _current(lineage: Lineage) -> set[str]:
    """Return the names of all runs and arms that a study has now."""
    runs = lineage.study.student_runs
    return {f"{name}{suffix}" for name in runs for suffix in ("", *UNFINISHED.values())} | {
        run.arm for run in runs.values()
    }


def _about(lineage: Lineage, artifact: Artifact, origin: Mapping[str, str]) -> RunDescription:
    assert artifact.key.run is not None
    run = lineage.study.student_runs[artifact.key.run]
    student, manifest = lineage.study.students[run.student], lineage.mixture_manifest(run.mixture)
    mixture = lineage.study.mixtures[run.mixture]
    partial = partial_words(unscored_tasks(lineage.evaluation.tasks)) if lineage.study.evaluation else ""
    datasets = {lineage.tokens(part).version: part for part in lineage.study.components(run.mixture).values()}
    return RunDescription(
        arm=run.arm,
        current=_current(lineage),
        tags={
            "finephrase.study": lineage.study.name,
            "finephrase.mixture": run.mixture,
            "finephrase.student": run.student,
            "dagster.asset": artifact.key.asset,
            "dagster.partition": artifact.key.run,
            **({"finephrase.partial": partial} if partial else {}),
            **override_tags(manifest.get("despite_audits")),
        },
        origin=origin,
        params={
            **student.model_dump(),
            "sequence": lineage.sequence,
            "decay_from": run.decay_from,
            "data_seed": run.seeds.data,
            "model_seed": run.seeds.model,
            "mixture_tokens": mixture.tokens,
            "mixture_seed": mixture.seed,
            **{f"weight.{component['name']}": component["weight"] for component in manifest["components"]},
        },
        datasets=[_used(lineage, datasets[component["version"]], component) for component in manifest["components"]],
    )


def _used(lineage: Lineage, dataset: Component, part: Mapping[str, Any]) -> UsedDataset:
    artifact = lineage.component(dataset)
    profile = {"num_rows": part["documents"], **{name: part[name] for name in PROFILE}}
    return UsedDataset(name=part["name"], digest=artifact.fingerprint, folder=artifact.folder, profile=profile)


def override_tags(despite: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the tags that say why a mixture uses datasets that failed their audit, and which."""
    if not despite:
        return {}
    failed = "; ".join(f"{name}: {', '.join(gates)}" for name, gates in despite["failed"].items())
    return {"finephrase.despite_audits": despite["reason"], "finephrase.failed_audits": failed[:TAG_LIMIT]}


def _mixture_files(lineage: Lineage, mixture: str) -> dict[str, str]:
    """Return a few completions of each synthetic dataset in a mixture as Markdown, and the page of its audit."""
    files = {}
    for name, component in lineage.study.components(mixture).items():
        audit = lineage.component_audit(component)
        if audit is None:
            continue
        corpus = lineage.source(component.source).folder
        pairs = completions(lineage.component(component).folder, corpus, rows=2)
        files[f"completions/{name}.md"] = f"# {name}\n\n{pairs_markdown(pairs)}"
        if (page := audit.folder / "audit.html").exists():
            files[f"audits/{name}.html"] = page.read_text(encoding="utf-8")
    return files


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
