"""Student checkpoints: one partition per student run, each with a run in MLflow that shows its loss while it trains."""

from collections.abc import Callable, Collection, Iterable

import dagster as dg

from assets.costs import of_training
from assets.previews import components
from assets.tracking import tracked, watched
from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.key import (
    CHECKPOINT,
    EARLY_SCORES,
    EARLY_STUDENT,
    MIXTURE,
    PRE_DECAY_CHECKPOINT,
    Kind,
)
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs
from finephrase_dagster.orchestration.placement import training
from resources.tracking import Tracking
from resources.trainer import StudentTrainer
from resources.warehouse import Warehouse

FIGURES = ("final_loss", "tokens_per_second", "parameters", "steps", "tokens", "seconds")


def build_training(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return `training/checkpoint`, and `training/pre_decay_checkpoint` if runs decay from another run."""
    study = lineage.study
    rivals = {run: [run] for run in study.rivals}
    deps = [needs(kind, rivals) for kind in (EARLY_STUDENT, EARLY_SCORES)] if rivals else []
    assets = []
    if study.pre_decay_runs:
        deps.append(needs(PRE_DECAY_CHECKPOINT, _runs_by_start(lineage)))
        pre_decay_checkpoint = student_asset(
            lineage,
            PRE_DECAY_CHECKPOINT,
            description="A student just before its learning rate decays. The run itself and its decay variants "
            "continue from here.",
            runs=study.pre_decay_runs,
            artifact=lineage.pre_decay_checkpoint,
            train=lambda trainer: trainer.train_to_decay,
        )
        assets.append(pre_decay_checkpoint)
    checkpoint = student_asset(
        lineage,
        CHECKPOINT,
        description="A student trained from scratch on one mixture; MLflow has its loss curve and settings.",
        runs=study.student_runs,
        artifact=lineage.checkpoint,
        train=lambda trainer: trainer.train,
        deps=deps,
    )
    return [*assets, checkpoint]


def student_asset(
    lineage: Lineage,
    kind: Kind,
    *,
    description: str,
    runs: Collection[str],
    artifact: Callable[[str], Artifact],
    train: Callable[[StudentTrainer], Callable[..., Contents]],
    deps: Iterable[dg.AssetDep] = (),
) -> dg.AssetsDefinition:
    """Return an asset whose partitions are students; MLflow shows their loss while they train and afterwards.

    Args:
        runs: the student runs that are its partitions.
        artifact: returns the artifact of a run.
        train: returns the trainer's method that trains a run into the artifact's folder.
        deps: what it depends on in addition to the mixtures.
    """

    @stage_asset(
        lineage,
        kind,
        description=description,
        kinds={"pytorch", "mlflow"},
        owner="training",
        partitions=runs,
        deps=[needs(MIXTURE, _runs_by_mixture(lineage, runs)), *deps],
        placement=training(lineage.study),
    )
    def student(
        context: dg.AssetExecutionContext, trainer: StudentTrainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run, log, train_run = context.partition_key, context.log.info, train(trainer)
        target = artifact(run)
        manifest = watched(
            context,
            tracking,
            lineage,
            target,
            lambda folder, on_loss: train_run(lineage, run, folder, log=log, on_loss=on_loss),
        )
        warehouse.record(target)
        link = tracked(context, tracking, lineage, target, kind)
        return materialized(
            target,
            preview=components(lineage.mixture_manifest(lineage.study.student_runs[run].mixture)["components"]),
            mlflow=dg.MetadataValue.url(link) if link else None,
            **{name: manifest[name] for name in FIGURES},
            **of_training(manifest, trainer.gpu_hour_dollars),
        )

    return student


def _runs_by_mixture(lineage: Lineage, names: Iterable[str]) -> dict[str, list[str]]:
    """Return, by mixture, those of the named student runs that are trained on it."""
    runs: dict[str, list[str]] = {mixture: [] for mixture in lineage.study.mixtures}
    for name in names:
        runs[lineage.study.student_runs[name].mixture].append(name)
    return runs


def _runs_by_start(lineage: Lineage) -> dict[str, list[str]]:
    """Return, by pre-decay checkpoint, the runs that continue from it: its own run and the decay variants."""
    runs = lineage.study.student_runs
    start = {name: run.base.name if run.base else name for name, run in runs.items()}
    return {base: [name for name in runs if start[name] == base] for base in lineage.study.pre_decay_runs}
