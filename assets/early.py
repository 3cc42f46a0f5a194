"""Early stop: students compared after their first steps, so that only the best are trained to their end."""

import dagster as dg

from assets.previews import tasks
from assets.training import materialize_student, runs_by_mixture
from finephrase_dagster.artifacts.key import EARLY_SCORES, EARLY_STUDENT, MIXTURE
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs, needs_same
from finephrase_dagster.orchestration.placement import evaluating, training
from resources.evaluator import Evaluator
from resources.tracking import Tracking
from resources.trainer import StudentTrainer
from resources.warehouse import Warehouse


def build_early(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the assets `early/student` and `early/scores` of a study with an early stop."""
    if not lineage.study.rivals:
        return []
    return [_student(lineage), _scores(lineage)]


def _student(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.rivals

    @stage_asset(
        lineage,
        EARLY_STUDENT,
        description="A student after the first steps on its mixture. The best students continue from here.",
        kinds={"pytorch", "mlflow"},
        owner="training",
        partitions=runs,
        deps=[needs(MIXTURE, runs_by_mixture(lineage, runs))],
        placement=training(lineage.study),
    )
    def student(
        context: dg.AssetExecutionContext, trainer: StudentTrainer, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        artifact = lineage.early(context.partition_key)
        return materialize_student(context, trainer, tracking, warehouse, lineage, artifact, trainer.train_early)

    return student


def _scores(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.rivals

    @stage_asset(
        lineage,
        EARLY_SCORES,
        description="The scores that decide which students are trained to their end.",
        kinds={"huggingface"},
        owner="evaluation",
        partitions=runs,
        deps=[needs_same(EARLY_STUDENT, runs)],
        placement=evaluating(),
    )
    def scores(context: dg.AssetExecutionContext, evaluator: Evaluator, warehouse: Warehouse) -> dg.MaterializeResult:
        run, log = context.partition_key, context.log.info
        artifact = lineage.early_scores(run)
        manifest = artifact.materialize(lambda folder: evaluator.evaluate_early(lineage, run, folder, log=log))
        warehouse.record(artifact)
        return materialized(
            artifact,
            macro=manifest["macro"],
            micro=manifest["micro"],
            **manifest["categories"],
            preview=tasks(manifest),
        )

    return scores
