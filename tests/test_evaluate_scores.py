"""The table of a study's scores, read from the artifacts on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.evaluate.scores import Values, read_scores, scores
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.study.paths import REPOSITORY, Paths
from resources.evaluator import curve_point


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return read_lineage(Paths(data=tmp_path / "data", study=REPOSITORY / "studies" / "demo.yaml"))


def materialize_without_scores(lineage: Lineage) -> None:
    """Publish every artifact upstream of the scores, without files."""
    for item in items(lineage):
        if item.stage in ("evaluation", "leaderboard"):
            continue
        item.artifact().materialize(lambda folder: Contents(files=[], facts={"sampling": {"temperature": 1.0}}))


def test_without_artifacts_the_table_has_its_columns_and_no_rows(lineage: Lineage) -> None:
    table = read_scores(lineage)
    assert table.num_rows == 0
    assert table.column_names[:2] == ["run", "mixture"]


@pytest.mark.slow
def test_the_table_has_each_score_of_each_evaluated_run(lineage: Lineage) -> None:
    materialize_without_scores(lineage)
    run = list(lineage.study.student_runs)[1]
    values: Values = {task: {"": [index / 100, index / 50]} for index, task in enumerate(benchmarks())}
    measured = scores(values, {task: {"": [8.0, 2.0]} for task in benchmarks()})
    facts = asdict(measured)
    facts["curve"] = [{**curve_point(facts), "step": step} for step in (2, 4, 6, 8, 10)]
    facts["curve"][0]["tasks"] = {**facts["curve"][0]["tasks"], "drop": measured.tasks["drop"].mean + 1}
    lineage.scores(run).materialize(lambda folder: Contents(files=[], facts=facts))
    rows = read_scores(lineage).to_pylist()
    assert len(rows) == 13 + 6 + 2
    assert {row["run"] for row in rows} == {run}
    parts = lineage.study.student_runs[run]
    assert {(row["mixture"], row["student"], row["data_seed"]) for row in rows} == {
        (parts.mixture, parts.student, parts.seeds.data)
    }
    by_name = {(row["kind"], row["name"]): row for row in rows}
    macro, drop = by_name["mean", "macro"], by_name["task", "drop"]
    assert (macro["score"], (macro["low"], macro["high"]), macro["n"]) == (
        measured.macro,
        measured.macro_interval,
        None,
    )
    assert (drop["score"], drop["n"]) == (measured.tasks["drop"].mean, 2)
    assert by_name["category", "GK"]["score"] == measured.categories["GK"]
    assert (macro["bits_per_byte"], macro["bits_per_byte_last5"]) == (pytest.approx(5), pytest.approx(5))
    assert drop["last5"] == pytest.approx(drop["score"] + 1 / 5)
