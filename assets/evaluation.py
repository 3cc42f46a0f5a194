"""Benchmark scores of every student run, and the leaderboard over all of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from assets.previews import records, tasks
from assets.runs import tracked
from finephrase_dagster.artifacts.artifact import Artifact, Contents, write_json
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import (
    CHECKPOINT,
    LEADERBOARD,
    SCORES,
    asset_spec,
    needs,
    static,
)
from finephrase_dagster.orchestration.placement import evaluating, preparing
from finephrase_dagster.orchestration.retries import retried
from finephrase_dagster.results.comparison import Interval, Variant, compared
from finephrase_dagster.results.early import look_early
from finephrase_dagster.results.warehouse import leaderboard, record_scores
from resources.evaluator import Evaluator
from resources.tracking import Tracking
from resources.warehouse import Warehouse

COLUMNS = {
    "task": ("string", "one of the thirteen"),
    "item": ("string", "its name in the task's data"),
    "query": ("string", "the prompt, examples included"),
    "prob_norm_token": ("float", "the probability of the right answer, per token"),
}


def build_evaluation(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The assets `evaluation/benchmark_scores` and `results/leaderboard`."""
    return [_scores(lineage), _leaderboard(lineage)]


def _scores(lineage: Lineage) -> dg.AssetsDefinition:
    runs = list(lineage.study.student_runs)

    @dg.multi_asset(
        name="benchmark_scores",
        specs=[
            asset_spec(
                SCORES,
                group="evaluation",
                description="The twelve tasks, 3-shot, `prob_norm_token`; categories, micro and macro score.",
                kinds={"huggingface", "mlflow"},
                owner="evaluation",
                columns=COLUMNS,
                deps=[needs(CHECKPOINT, {run: [run] for run in runs})],
            )
        ],
        partitions_def=static(runs),
        **evaluating().arguments,
    )
    @retried
    def benchmark_scores(
        context: dg.AssetExecutionContext, evaluator: Evaluator, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        run = context.partition_key
        artifact, checkpoint = lineage.scores(run), lineage.checkpoint(run)
        checkpoint.manifest()
        scores = artifact.materialize(lambda folder: evaluator.evaluate(lineage, run, folder, log=context.log.info))
        warehouse.record(artifact)
        with warehouse.connect() as connection:
            _record(connection, lineage, artifact)
        named = {
            **{task: score["mean"] for task, score in scores["tasks"].items()},
            **scores["categories"],
            **{mean: scores[mean] for mean in ("micro", "macro") if scores[mean] is not None},
        }
        run_id, link = tracked(context, tracking, lineage, checkpoint)
        if run_id:
            on_the_way = [(point["step"], point["macro"]) for point in scores["curve"] if point["macro"] is not None]

            def tell() -> None:
                tracking.log_scores(run_id, named)
                if len(scores["curve"]) > 1:
                    tracking.log_curve(run_id, "macro_on_the_way", on_the_way)

            tracking.attempt(artifact, tell, warn=context.log.warning)
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


def _leaderboard(lineage: Lineage) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="leaderboard",
        specs=[
            asset_spec(
                LEADERBOARD,
                group="results",
                stage="leaderboard",
                description="Mixtures compared: mean macro score over the seeds with its spread, the six categories, "
                "how often a student saw its data, and which differences are more than noise.",
                kinds={"duckdb", "report"},
                owner="evaluation",
                deps=[needs_all_scores()],
            )
        ],
        **preparing().arguments,
    )
    @retried
    def leaderboard_asset(
        context: dg.AssetExecutionContext, tracking: Tracking, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        artifact = lineage.leaderboard()
        runs = lineage.finishing_runs()
        scores = [lineage.scores(run) for run in runs]
        with warehouse.connect() as connection:
            for of_run in scores:  # the artifacts are the truth, also where the warehouse is younger than they
                _record(connection, lineage, of_run)
            ranked = leaderboard(connection, scores)
        mixtures = {name: lineage.mixture(name).manifest() for name in {row["mixture"] for row in ranked}}
        manifests = {run: of_run.manifest() for run, of_run in zip(runs, scores, strict=True)}
        rows = compared(ranked, mixtures, _intervals(lineage, manifests))
        looks = [asdict(look) for look in look_early(_curves(manifests))]

        def make(folder: Path) -> Contents:
            write_json(folder / "leaderboard.json", rows)
            write_json(folder / "early.json", [{**look, "regret": _named(look["regret"])} for look in looks])
            return Contents(files=folder.glob("*.json"), facts={"rows": len(rows)})

        artifact.materialize(make)
        warehouse.record(artifact)
        link = tracking.attempt(artifact, tracking.comparison, warn=context.log.warning)
        flat = [{**{k: v for k, v in row.items() if not isinstance(v, dict)}, **row["categories"]} for row in rows]
        return materialized(
            artifact,
            rows=len(rows),
            best=flat[0]["mixture"] if flat else None,
            best_macro=flat[0]["macro"] if flat else None,
            preview=records(flat),
            early=records({**look, "regret": json.dumps(_named(look["regret"]))} for look in looks) if looks else None,
            mlflow=dg.MetadataValue.url(link) if link else None,
        )

    return leaderboard_asset


def _intervals(lineage: Lineage, scores: Mapping[str, dict[str, Any]]) -> dict[Variant, list[Interval]]:
    found: dict[Variant, list[Interval]] = {}
    for name, manifest in scores.items():
        if manifest["macro_interval"] is not None:
            run = lineage.study.student_runs[name]
            low, high = manifest["macro_interval"]
            found.setdefault((run.mixture, run.student, run.decay_from), []).append((low, high))
    return found


def _curves(scores: Mapping[str, dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Macro scores by step; nothing where tasks are missing."""
    return {
        run: {point["step"]: point["macro"] for point in manifest["curve"] if point["macro"] is not None}
        for run, manifest in scores.items()
    }


def _named(regret: Mapping[float, float]) -> dict[str, float]:
    return {f"{part:g}": lost for part, lost in regret.items()}


def _record(connection: duckdb.DuckDBPyConnection, lineage: Lineage, artifact: Artifact) -> None:
    assert artifact.key.run is not None
    scores = artifact.manifest()
    record_scores(
        connection,
        artifact,
        lineage.study.student_runs[artifact.key.run],
        tasks={task: (score["mean"], score["n"]) for task, score in scores["tasks"].items()},
        categories=scores["categories"],
        micro=scores["micro"],
        macro=scores["macro"],
    )


def needs_all_scores() -> dg.AssetDep:
    """The leaderboard compares every student run."""
    return dg.AssetDep(SCORES, partition_mapping=dg.AllPartitionMapping())
