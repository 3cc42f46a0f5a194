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
    PLATEAU,
    asset_spec,
    needs,
    static,
)
from finephrase_dagster.orchestration.placement import training
from finephrase_dagster.orchestration.retries import retried
from resources.tracking import Tracking
from resources.trainer import Trainer
from resources.warehouse import Warehouse

FIGURES = ("final_loss", "tokens_per_second", "parameters", "steps", "tokens", "seconds")


def build_training(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The asset `training/checkpoint`, and `training/plateau` where runs decay from another's."""
    if not lineage.study.plateaus:
        return [_checkpoint(lineage)]
    return [_plateau(lineage), _checkpoint(lineage)]


def _plateau(lineage: Lineage) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="plateau",
        specs=[
            asset_spec(
                PLATEAU,
                group="training",
                description="A student just before its learning rate decays: the decay variants, and the run itself, "
                "go on from here.",
                kinds={"pytorch", "mlflow"},
                owner="training",
                deps=[needs(MIXTURE, trained_on(lineage, lineage.study.plateaus))],
            )
        ],
        partitions_def=static(lineage.study.plateaus),
        **training(lineage.study).arguments,
    )
    @retried
    def plateau(
        context: dg.AssetExecutionContext, trainer: Trainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run = context.partition_key
        return student_made(context, trainer, tracking, warehouse, lineage, lineage.plateau(run), trainer.train_plateau)

    return plateau


def trained_on(lineage: Lineage, names: Iterable[str]) -> dict[str, list[str]]:
    """Of these runs, those on each mixture."""
    runs = {name: lineage.study.student_runs[name] for name in names}
    return {
        mixture: [name for name, run in runs.items() if run.mixture == mixture] for mixture in lineage.study.mixtures
    }


def _begun_from(lineage: Lineage) -> dict[str, list[str]]:
    """The runs that go on from each plateau: its own and the decay variants."""
    runs = lineage.study.student_runs
    begun = {name: run.base.name if run.base else name for name, run in runs.items()}
    return {plateau: [name for name in runs if begun[name] == plateau] for plateau in lineage.study.plateaus}


def _checkpoint(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.student_runs
    begun = [needs(PLATEAU, _begun_from(lineage))] if lineage.study.plateaus else []
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
        context: dg.AssetExecutionContext, trainer: Trainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run = context.partition_key
        return student_made(context, trainer, tracking, warehouse, lineage, lineage.checkpoint(run), trainer.train)

    return checkpoint


def student_made(
    context: dg.AssetExecutionContext,
    trainer: Trainer,
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
