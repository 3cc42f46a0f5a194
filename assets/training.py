"""Student checkpoints: one partition a student run, each with a run in MLflow."""

from collections.abc import Iterable

import dagster as dg

from assets.costs import of_training
from assets.previews import completions, records
from finephrase_dagster.events import materialized
from finephrase_dagster.partitions import (
    CHECKPOINT,
    EARLY_SCORES,
    EARLY_STUDENT,
    MIXTURE,
    PLATEAU,
    asset_spec,
    needs,
    static,
)
from finephrase_dagster.placement import training
from finephrase_dagster.study.artifact import Artifact
from finephrase_dagster.study.lineage import Lineage
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
                kinds={"pytorch"},
                owner="training",
                deps=[needs(MIXTURE, trained_on(lineage, lineage.study.plateaus))],
            )
        ],
        partitions_def=static(lineage.study.plateaus),
        **training().arguments,
    )
    def plateau(context: dg.AssetExecutionContext, trainer: Trainer, warehouse: Warehouse) -> dg.MaterializeResult:
        run = context.partition_key
        artifact = lineage.plateau(run)
        manifest = artifact.made_by(lambda folder: trainer.train_plateau(lineage, run, folder, log=context.log.info))
        warehouse.record(artifact)
        return materialized(
            artifact, **{name: manifest[name] for name in FIGURES}, **of_training(manifest, trainer.gpu_hour_dollars)
        )

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
        **training().arguments,
    )
    def checkpoint(
        context: dg.AssetExecutionContext, trainer: Trainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run = context.partition_key
        artifact = lineage.checkpoint(run)
        manifest = artifact.made_by(lambda folder: trainer.train(lineage, run, folder, log=context.log.info))
        warehouse.record(artifact)
        run_id = tracking.finished(artifact) or track_checkpoint(tracking, lineage, artifact, context)
        return materialized(
            artifact,
            preview=records(lineage.mixture(runs[run].mixture).manifest()["components"]),
            mlflow=dg.MetadataValue.url(tracking.link(run_id)),
            **{name: manifest[name] for name in FIGURES},
            **of_training(manifest, trainer.gpu_hour_dollars),
        )

    return checkpoint


def track_checkpoint(
    tracking: Tracking, lineage: Lineage, checkpoint: Artifact, context: dg.AssetExecutionContext
) -> str:
    """Records a checkpoint in MLflow; returns the id of its run."""
    assert checkpoint.partition is not None
    run = lineage.study.student_runs[checkpoint.partition]
    manifest, mixture = checkpoint.manifest(), lineage.mixture(run.mixture).manifest()
    run_id = tracking.start(
        checkpoint,
        seconds=manifest["seconds"],
        tags={
            "finephrase.study": lineage.study.name,
            "finephrase.mixture": run.mixture,
            "finephrase.student": run.student,
            "dagster.run_id": context.run_id,
            "dagster.asset": checkpoint.asset,
            "dagster.partition": checkpoint.partition,
        },
        params={
            **lineage.study.students[run.student].model_dump(),
            "sequence": lineage.sequence,
            "decay_from": run.decay_from,
            "data_seed": run.seeds.data,
            "model_seed": run.seeds.model,
            "parameters": manifest["parameters"],
            **{f"weight.{component['name']}": component["weight"] for component in mixture["components"]},
        },
    )
    for name in ("loss", "learning_rate"):
        tracking.log_curve(run_id, name, [(point["step"], point[name]) for point in manifest["curve"]])
    tracking.log_scores(run_id, {name: manifest[name] for name in ("tokens", "tokens_per_second", "final_loss")})
    tracking.log_file(run_id, "mixture.json", mixture)
    if samples := _sample_completions(lineage, run.mixture):
        tracking.log_file(run_id, "completions.md", samples)
    tracking.finish(run_id)
    return run_id


def _sample_completions(lineage: Lineage, mixture: str) -> str:
    """A few completions of each synthetic dataset in a mixture, as Markdown."""
    study = lineage.study
    shown = []
    for component in study.mixtures[mixture].components:
        cell, _, prompt = component.partition("/")
        if prompt:
            dataset = lineage.dataset(study.cell(cell), prompt)
            corpus = lineage.source(study.cell(cell).source)
            shown.append(f"# {component}\n\n{completions(dataset.folder, corpus=corpus.folder, rows=2)}")
    return "\n\n".join(shown)
