"""Benchmark scores of every student run, and the leaderboard over all of them."""

import json
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.previews import records, tasks
from assets.tracking import record_students, tracked
from finephrase_dagster.artifacts.key import CHECKPOINT, LEADERBOARD, SCORES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.markdown import markdown_table
from finephrase_dagster.evaluate.categories import partial_words, unscored_tasks
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import asset_key, needs_same
from finephrase_dagster.orchestration.placement import evaluating
from finephrase_dagster.results.analysis import LeaderboardRow, row_name, verdict_words
from finephrase_dagster.results.figure import as_score, as_word
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
        deps=[needs_same(CHECKPOINT)],
        placement=evaluating(),
    )
    def benchmark_scores(
        context: dg.AssetExecutionContext, evaluator: Evaluator, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run, log = context.partition_key, context.log.info
        artifact, checkpoint = lineage.scores(run), lineage.checkpoint(run)
        checkpoint.manifest()
        scores = artifact.materialize(lambda folder: evaluator.evaluate(lineage, run, folder, log=log))
        warehouse.record(artifact)
        link = tracked(context, tracking, lineage, checkpoint, SCORES)
        return materialized(
            artifact,
            preview=tasks(scores),
            mlflow=dg.MetadataValue.url(link) if link else None,
            macro=scores["macro"],
            micro=scores["micro"],
            partial=partial_words(unscored_tasks(scores["tasks"])) or None,
            **scores["categories"],
            seconds=scores["seconds"],
            macro_interval=" to ".join(f"{end:.4f}" for end in scores["macro_interval"] or ()) or None,
        )

    return benchmark_scores


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

        def catch_up() -> str:
            record_students(tracking, lineage, context.instance)
            return tracking.comparison()

        link = tracking.attempt(artifact, catch_up, warn=context.log.warning)
        best = next((row for row in board.rows if row["macro"] is not None), None)
        early = [{**look, "regret": json.dumps(look["regret"])} for look in board.early]
        return materialized(
            artifact,
            rows=len(board.rows),
            best=best and best["mixture"],
            best_macro=best and round(best["macro"], 6),
            partial=best and best["partial"],
            preview=best_rows(board.rows),
            table=records(map(_important_first, board.rows)),
            early=records(early) if early else None,
            mlflow=dg.MetadataValue.url(link) if link else None,
        )

    return leaderboard


BEST_ROWS = 8  # longer Markdown is behind a link
SHOWN = ("mixture", "macro", "± sd", "original", "best", "seeds", "micro", "epochs")
"""The columns of the leaderboard that a window of 1,400 pixels has room for."""


def best_rows(rows: Sequence[LeaderboardRow]) -> str:
    """Return the important columns of the best rows, as Markdown, which takes less room than a table."""
    shown = map(_important_first, rows[:BEST_ROWS])
    cells = (
        [(as_score if isinstance(row[name], float) and name != "epochs" else as_word)(row[name]) for name in SHOWN]
        for row in shown
    )
    return markdown_table(SHOWN, cells)


def _important_first(row: LeaderboardRow) -> dict[str, Any]:
    """Return a row of the leaderboard as the page shows it."""
    original = row["against_original"]
    return {
        "mixture": row_name(row),
        "macro": row["macro"],
        "± sd": row["macro_sd"],
        "original": original and verdict_words(original),
        "best": row["verdict"],
        "seeds": row["seeds"],
        "student": row["student"],
        "micro": row["micro"],
        "epochs": row["epochs"] and round(row["epochs"], 1),
        **row["categories"],
        **{name: row[name] for name in ("held_out", "tokens", "despite_audits") if row[name] is not None},
    }
