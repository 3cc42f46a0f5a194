"""Students in MLflow: what their runs show while a student trains and afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.previews import completions, pairs_markdown
from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.train.job import LossCallback
from resources.tracking import RunDescription, Tracking

TAG_CHARACTERS = 5_000  # of a tag's value that MLflow's stores keep
METRICS = ("tokens", "tokens_per_second", "final_loss")


def watched(
    context: dg.AssetExecutionContext,
    tracking: Tracking,
    lineage: Lineage,
    artifact: Artifact,
    train: Callable[[Path, LossCallback], Contents],
) -> dict[str, Any]:
    """Return the manifest of a student after training it if necessary; MLflow shows its loss meanwhile."""

    def make(folder: Path) -> Contents:
        about = _about(context, lineage, artifact)
        with tracking.recording(artifact, about, warn=context.log.warning) as on_loss:
            return train(folder, on_loss)

    return artifact.materialize(make)


def tracked(
    context: dg.AssetExecutionContext, tracking: Tracking, lineage: Lineage, artifact: Artifact
) -> tuple[str | None, str | None]:
    """Return the id of a student's finished run in MLflow and a link to its page; None if MLflow does not answer."""
    manifest = artifact.manifest()
    mixture = lineage.study.student_runs[artifact.key.run or ""].mixture
    files: dict[str, object] = {"mixture.json": lineage.mixture_manifest(mixture)}
    if samples := _sample_completions(lineage, mixture):
        files["completions.md"] = samples

    def complete() -> tuple[str, str]:
        run_id = tracking.complete(
            artifact,
            _about(context, lineage, artifact),
            curve=manifest["curve"],
            metrics={name: manifest[name] for name in METRICS},
            files=files,
            seconds=manifest["seconds"],
        )
        return run_id, tracking.link(run_id)

    return tracking.attempt(artifact, complete, warn=context.log.warning) or (None, None)


def _about(context: dg.AssetExecutionContext, lineage: Lineage, artifact: Artifact) -> RunDescription:
    assert artifact.key.run is not None
    run = lineage.study.student_runs[artifact.key.run]
    student, mixture = lineage.study.students[run.student], lineage.mixture_manifest(run.mixture)
    return RunDescription(
        tags={
            "finephrase.study": lineage.study.name,
            "finephrase.mixture": run.mixture,
            "finephrase.student": run.student,
            "dagster.run_id": context.run_id,
            "dagster.asset": artifact.key.asset,
            "dagster.partition": artifact.key.run,
            **override_tags(mixture.get("despite_audits")),
        },
        params={
            **student.model_dump(),
            "sequence": lineage.sequence,
            "decay_from": run.decay_from,
            "data_seed": run.seeds.data,
            "model_seed": run.seeds.model,
            **{f"weight.{component['name']}": component["weight"] for component in mixture["components"]},
        },
    )


def override_tags(despite: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the tags that say why a mixture uses datasets that failed their audit, and which."""
    if not despite:
        return {}
    failed = "; ".join(f"{name}: {', '.join(gates)}" for name, gates in despite["failed"].items())
    return {"finephrase.despite_audits": despite["reason"], "finephrase.failed_audits": failed[:TAG_CHARACTERS]}


def _sample_completions(lineage: Lineage, mixture: str) -> str:
    """Return a few completions of each synthetic dataset in a mixture as Markdown."""
    study = lineage.study
    samples = []
    for name, component in study.components(mixture).items():
        if component.prompt is not None:
            corpus = lineage.source(component.source).folder
            samples.append(
                f"# {name}\n\n{pairs_markdown(completions(lineage.component(component).folder, corpus, rows=2))}"
            )
    return "\n\n".join(samples)
