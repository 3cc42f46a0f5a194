"""The table of a study's scores, read from the artifacts on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.evaluate.scores import read_scores, scores
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.study.paths import REPOSITORY, Paths


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


def test_the_table_has_each_score_of_each_evaluated_run(lineage: Lineage) -> None:
    materialize_without_scores(lineage)
    run = list(lineage.study.student_runs)[1]
    measured = scores({task: {"": [index / 100, index / 50]} for index, task in enumerate(benchmarks())})
    lineage.scores(run).materialize(lambda folder: Contents(files=[], facts=asdict(measured)))
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
