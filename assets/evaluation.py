"""Benchmark scores of every student run, and the leaderboard over all of them."""

import json
from typing import Any

import dagster as dg

from assets.previews import records, tasks
from assets.tracking import tracked
from finephrase_dagster.artifacts.key import CHECKPOINT, LEADERBOARD, SCORES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import asset_key, needs_same
from finephrase_dagster.orchestration.placement import evaluating
from finephrase_dagster.results.leaderboard import record_study, study_leaderboard
from finephrase_dagster.results.warehouse import record_verdicts
from resources.evaluator import Evaluator
from resources.tracking import Tracking
from resources.warehouse import Warehouse

COLUMNS = {
    "task": ("string", "one of the thirteen tasks"),
    "item": ("string", "the item's name in the task's data"),
    "query": ("string", "the prompt, including the examples"),
    "prob_norm_token": ("float", "the probability of the right answer per token"),
}


def build_evaluation(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the assets `evaluation/benchmark_scores` and `results/leaderboard`."""
    return [_scores(lineage), _leaderboard(lineage)]


def _scores(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.student_runs

    @stage_asset(
        lineage,
        SCORES,
        description="The twelve tasks, 3-shot, metric `prob_norm_token`; categories, micro and macro score.",
        kinds={"huggingface", "mlflow"},
        owner="evaluation",
        partitions=runs,
        columns=COLUMNS,
        deps=[needs_same(CHECKPOINT, runs)],
        placement=evaluating(),
    )
    def benchmark_scores(
        context: dg.AssetExecutionContext, evaluator: Evaluator, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run, log = context.partition_key, context.log
        artifact, checkpoint = lineage.scores(run), lineage.checkpoint(run)
        checkpoint.manifest()
        scores = artifact.materialize(lambda folder: evaluator.evaluate(lineage, run, folder, log=log.info))
        warehouse.record(artifact)
        run_id, link = tracked(context, tracking, lineage, checkpoint)
        if run_id:
            tracking.attempt(artifact, lambda: _track(tracking, run_id, scores), warn=log.warning)
        return materialized(
            artifact,
            preview=tasks(scores),
            mlflow=dg.MetadataValue.url(link) if link else None,
            macro=scores["macro"],
            micro=scores["micro"],
            **scores["categories"],
            seconds=scores["seconds"],
            macro_interval=" to ".join(f"{end:.4f}" for end in scores["macro_interval"] or ()) or None,
        )

    return benchmark_scores


def _track(tracking: Tracking, run_id: str, scores: dict[str, Any]) -> None:
    """Log the final scores, and the macro scores of earlier steps, to the student's run in MLflow."""
    tasks_ = {task: score["mean"] for task, score in scores["tasks"].items()}
    means = {mean: scores[mean] for mean in ("micro", "macro") if scores[mean] is not None}
    tracking.log_scores(run_id, {**tasks_, **scores["categories"], **means})
    if len(scores["curve"]) > 1:
        curve = [(point["step"], point["macro"]) for point in scores["curve"] if point["macro"] is not None]
        tracking.log_curve(run_id, "macro_on_the_way", curve)


def _leaderboard(lineage: Lineage) -> dg.AssetsDefinition:
    @stage_asset(
        lineage,
        LEADERBOARD,
        description="Mixtures compared: mean macro score over the seeds and its spread, the six categories, how often "
        "a student saw its data, and which differences exceed the noise.",
        kinds={"duckdb", "report"},
        owner="evaluation",
        deps=[dg.AssetDep(asset_key(SCORES), partition_mapping=dg.AllPartitionMapping())],
    )
    def leaderboard(
        context: dg.AssetExecutionContext, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        artifact = lineage.leaderboard()
        with warehouse.connect() as connection:
            record_study(lineage, connection)
            board = study_leaderboard(lineage, connection)
            verdicts = [row["against_original"] for row in board.rows if row["against_original"]]
            record_verdicts(connection, lineage.study.name, verdicts)
        artifact.materialize(board.write)
        warehouse.record(artifact)
        link = tracking.attempt(artifact, tracking.comparison, warn=context.log.warning)
        flat = [
            {**{k: v for k, v in row.items() if not isinstance(v, dict | list | tuple)}, **row["categories"]}
            for row in board.rows
        ]
        best = next((row for row in flat if row["macro"] is not None), None)
        early = [{**look, "regret": json.dumps(look["regret"])} for look in board.early]
        return materialized(
            artifact,
            rows=len(flat),
            best=best and best["mixture"],
            best_macro=best and best["macro"],
            preview=records(flat),
            early=records(early) if early else None,
            mlflow=dg.MetadataValue.url(link) if link else None,
        )

    return leaderboard
