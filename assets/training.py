"""Student checkpoints: one partition per student run, each with a run in MLflow that shows its loss while it trains."""

from collections.abc import Callable, Iterable

import dagster as dg

from assets.costs import of_training
from assets.previews import records
from assets.tracking import tracked, watched
from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.key import CHECKPOINT, EARLY_SCORES, EARLY_STUDENT, MIXTURE, PRE_DECAY_CHECKPOINT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs, needs_same
from finephrase_dagster.orchestration.placement import training
from resources.tracking import Tracking
from resources.trainer import StudentTrainer
from resources.warehouse import Warehouse

FIGURES = ("final_loss", "tokens_per_second", "parameters", "steps", "tokens", "seconds")


def build_training(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return `training/checkpoint`, and `training/pre_decay_checkpoint` if runs decay from another run."""
    if not lineage.study.pre_decay_runs:
        return [_checkpoint(lineage)]
    return [_pre_decay_checkpoint(lineage), _checkpoint(lineage)]


def _pre_decay_checkpoint(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.pre_decay_runs

    @stage_asset(
        lineage,
        PRE_DECAY_CHECKPOINT,
        description="A student just before its learning rate decays. The run itself and its decay variants continue "
        "from here.",
        kinds={"pytorch", "mlflow"},
        owner="training",
        partitions=runs,
        deps=[needs(MIXTURE, runs_by_mixture(lineage, runs))],
        placement=training(lineage.study),
    )
    def pre_decay_checkpoint(
        context: dg.AssetExecutionContext, trainer: StudentTrainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        artifact = lineage.pre_decay_checkpoint(context.partition_key)
        return materialize_student(context, trainer, tracking, warehouse, lineage, artifact, trainer.train_to_decay)

    return pre_decay_checkpoint


def _checkpoint(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.student_runs
    deps = [needs(MIXTURE, runs_by_mixture(lineage, runs))]
    if lineage.study.pre_decay_runs:
        deps.append(needs(PRE_DECAY_CHECKPOINT, _runs_by_start(lineage)))
    if rivals := lineage.study.rivals:
        deps += [needs_same(kind, rivals) for kind in (EARLY_STUDENT, EARLY_SCORES)]

    @stage_asset(
        lineage,
        CHECKPOINT,
        description="A student trained from scratch on one mixture; MLflow has its loss curve and settings.",
        kinds={"pytorch", "mlflow"},
        owner="training",
        partitions=runs,
        deps=deps,
        placement=training(lineage.study),
    )
    def checkpoint(
        context: dg.AssetExecutionContext, trainer: StudentTrainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        artifact = lineage.checkpoint(context.partition_key)
        return materialize_student(context, trainer, tracking, warehouse, lineage, artifact, trainer.train)

    return checkpoint


def runs_by_mixture(lineage: Lineage, names: Iterable[str]) -> dict[str, list[str]]:
    """Return, by mixture, those of the named student runs that are trained on it."""
    runs = {name: lineage.study.student_runs[name] for name in names}
    return {
        mixture: [name for name, run in runs.items() if run.mixture == mixture] for mixture in lineage.study.mixtures
    }


def _runs_by_start(lineage: Lineage) -> dict[str, list[str]]:
    """Return, by pre-decay checkpoint, the runs that continue from it: its own run and the decay variants."""
    runs = lineage.study.student_runs
    start = {name: run.base.name if run.base else name for name, run in runs.items()}
    return {base: [name for name in runs if start[name] == base] for base in lineage.study.pre_decay_runs}


def materialize_student(
    context: dg.AssetExecutionContext,
    trainer: StudentTrainer,
    tracking: Tracking,
    warehouse: Warehouse,
    lineage: Lineage,
    artifact: Artifact,
    train: Callable[..., Contents],
) -> dg.MaterializeResult:
    """Materialize a student with a method of the trainer; MLflow shows its loss while it trains and afterwards."""
    run = context.partition_key
    manifest = watched(
        context,
        tracking,
        lineage,
        artifact,
        lambda folder, on_loss: train(lineage, run, folder, log=context.log.info, on_loss=on_loss),
    )
    warehouse.record(artifact)
    _, link = tracked(context, tracking, lineage, artifact)
    mixture = lineage.mixture(lineage.study.student_runs[run].mixture)
    return materialized(
        artifact,
        preview=records(mixture.manifest()["components"]),
        mlflow=dg.MetadataValue.url(link) if link else None,
        **{name: manifest[name] for name in FIGURES},
        **of_training(manifest, trainer.gpu_hour_dollars),
    )
