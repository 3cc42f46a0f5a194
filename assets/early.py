"""Early stops: students compared after their first steps, so that only the best are trained to their end."""

import dagster as dg

from assets.previews import tasks
from assets.training import student_made, trained_on
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import EARLY_SCORES, EARLY_STUDENT, MIXTURE, asset_spec, needs, static
from finephrase_dagster.orchestration.placement import evaluating, training
from finephrase_dagster.orchestration.retries import retried
from resources.evaluator import Evaluator
from resources.tracking import Tracking
from resources.trainer import StudentTrainer
from resources.warehouse import Warehouse


def build_early(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The assets `early/student` and `early/scores`, of a study with an early stop."""
    if not lineage.study.rivals:
        return []
    return [_student(lineage), _scores(lineage)]


def _student(lineage: Lineage) -> dg.AssetsDefinition:
    runs = list(lineage.study.rivals)

    @dg.multi_asset(
        name="early_student",
        specs=[
            asset_spec(
                EARLY_STUDENT,
                group="training",
                description="A student after the first steps on its mixture. If it is among the best it goes on from "
                "here.",
                kinds={"pytorch", "mlflow"},
                owner="training",
                deps=[needs(MIXTURE, trained_on(lineage, runs))],
            )
        ],
        partitions_def=static(runs),
        **training(lineage.study).arguments,
    )
    @retried
    def student(
        context: dg.AssetExecutionContext, trainer: StudentTrainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run = context.partition_key
        return student_made(context, trainer, tracking, warehouse, lineage, lineage.early(run), trainer.train_early)

    return student


def _scores(lineage: Lineage) -> dg.AssetsDefinition:
    runs = list(lineage.study.rivals)

    @dg.multi_asset(
        name="early_scores",
        specs=[
            asset_spec(
                EARLY_SCORES,
                group="training",
                stage="evaluation",
                description="The macro score by which it is decided whether a student goes on.",
                kinds={"huggingface"},
                owner="evaluation",
                deps=[needs(EARLY_STUDENT, {run: [run] for run in runs})],
            )
        ],
        partitions_def=static(runs),
        **evaluating().arguments,
    )
    @retried
    def scores(context: dg.AssetExecutionContext, evaluator: Evaluator, warehouse: Warehouse) -> dg.MaterializeResult:
        run = context.partition_key
        artifact = lineage.early_scores(run)
        manifest = artifact.materialize(
            lambda folder: evaluator.evaluate_early(lineage, run, folder, log=context.log.info)
        )
        warehouse.record(artifact)
        return materialized(
            artifact,
            macro=manifest["macro"],
            micro=manifest["micro"],
            **manifest["categories"],
            preview=tasks(manifest),
        )

    return scores
