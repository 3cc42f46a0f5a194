"""Student checkpoints: one partition a student run, each with a run in MLflow that shows its loss while it trains."""

from collections.abc import Callable, Iterable

import dagster as dg

from assets.costs import of_training
from assets.previews import records
from assets.runs import tracked, watched
from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import (
    CHECKPOINT,
    EARLY_SCORES,
    EARLY_STUDENT,
    MIXTURE,
    PRE_DECAY_CHECKPOINT,
    asset_spec,
    needs,
    static,
)
from finephrase_dagster.orchestration.placement import training
from finephrase_dagster.orchestration.retries import retried
from resources.tracking import Tracking
from resources.trainer import StudentTrainer
from resources.warehouse import Warehouse

FIGURES = ("final_loss", "tokens_per_second", "parameters", "steps", "tokens", "seconds")


def build_training(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The asset `training/checkpoint`, and `training/pre_decay_checkpoint` where runs decay from another's."""
    if not lineage.study.pre_decay_runs:
        return [_checkpoint(lineage)]
    return [_pre_decay_checkpoint(lineage), _checkpoint(lineage)]


def _pre_decay_checkpoint(lineage: Lineage) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="pre_decay_checkpoint",
        specs=[
            asset_spec(
                PRE_DECAY_CHECKPOINT,
                group="training",
                description="A student just before its learning rate decays: the decay variants, and the run itself, "
                "go on from here.",
                kinds={"pytorch", "mlflow"},
                owner="training",
                deps=[needs(MIXTURE, trained_on(lineage, lineage.study.pre_decay_runs))],
            )
        ],
        partitions_def=static(lineage.study.pre_decay_runs),
        **training(lineage.study).arguments,
    )
    @retried
    def pre_decay_checkpoint(
        context: dg.AssetExecutionContext, trainer: StudentTrainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run = context.partition_key
        return student_made(
            context, trainer, tracking, warehouse, lineage, lineage.pre_decay_checkpoint(run), trainer.train_to_decay
        )

    return pre_decay_checkpoint


def trained_on(lineage: Lineage, names: Iterable[str]) -> dict[str, list[str]]:
    """Of these runs, those on each mixture."""
    runs = {name: lineage.study.student_runs[name] for name in names}
    return {
        mixture: [name for name, run in runs.items() if run.mixture == mixture] for mixture in lineage.study.mixtures
    }


def _begun_from(lineage: Lineage) -> dict[str, list[str]]:
    """The runs that go on from each pre-decay checkpoint: its own and the decay variants."""
    runs = lineage.study.student_runs
    begun = {name: run.base.name if run.base else name for name, run in runs.items()}
    return {base: [name for name in runs if begun[name] == base] for base in lineage.study.pre_decay_runs}


def _checkpoint(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.student_runs
    begun = [needs(PRE_DECAY_CHECKPOINT, _begun_from(lineage))] if lineage.study.pre_decay_runs else []
    if rivals := lineage.study.rivals:
        begun += [needs(key, {run: [run] for run in rivals}) for key in (EARLY_STUDENT, EARLY_SCORES)]

    @dg.multi_asset(
        name="checkpoint",
        specs=[
            asset_spec(
                CHECKPOINT,
                group="training",
                description="A student trained from scratch on one mixture; its loss curve and what it was made "
                "of are in MLflow.",
                kinds={"pytorch", "mlflow"},
                owner="training",
                deps=[needs(MIXTURE, trained_on(lineage, runs)), *begun],
            )
        ],
        partitions_def=static(runs),
        **training(lineage.study).arguments,
    )
    @retried
    def checkpoint(
        context: dg.AssetExecutionContext, trainer: StudentTrainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run = context.partition_key
        return student_made(context, trainer, tracking, warehouse, lineage, lineage.checkpoint(run), trainer.train)

    return checkpoint


def student_made(
    context: dg.AssetExecutionContext,
    trainer: StudentTrainer,
    tracking: Tracking,
    warehouse: Warehouse,
    lineage: Lineage,
    artifact: Artifact,
    train: Callable[..., Contents],
) -> dg.MaterializeResult:
    """Makes a student's artifact with a method of the trainer; its loss is in MLflow while it trains and afterwards."""
    run = context.partition_key
    manifest = watched(
        context,
        tracking,
        lineage,
        artifact,
        lambda folder, follow: train(lineage, run, folder, log=context.log.info, follow=follow),
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
