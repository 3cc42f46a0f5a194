"""The documented queries and the lines that open artifacts run; the first query gives the leaderboard's figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet  # the documented lines use it
import pytest

from finephrase_dagster.results.leaderboard import record_study, study_leaderboard
from finephrase_dagster.results.warehouse import writing
from finephrase_dagster.study.paths import REPOSITORY
from installation import Installation

PAGE = (REPOSITORY / "docs" / "queries.md").read_text(encoding="utf-8")
QUERIES = {
    title: query.replace("'demo'", "'small'").replace("'readmes_raw'", "'raw'")
    for title, query in re.findall(r"^## (.*?)\n.*?```sql\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
}


@pytest.fixture
def warehouse(own: Installation) -> Iterator[duckdb.DuckDBPyConnection]:
    lineage = own.lineage.snapshot()
    with writing(lineage.paths.warehouse) as connection:
        record_study(lineage, connection)
        mixture = "asset = 'mixtures/mixture' AND part = 'raw'"
        connection.execute(
            f"INSERT INTO manifests SELECT * REPLACE ('old' AS fingerprint) FROM manifests WHERE {mixture}"
        )
        yield connection


@pytest.mark.slow
def test_the_ten_queries_answer(warehouse: duckdb.DuckDBPyConnection, own: Installation) -> None:
    answers = {title: warehouse.execute(query).fetchall() for title, query in QUERIES.items()}
    assert len(answers) == 10
    assert [title for title, rows in answers.items() if not rows] == []
    board = {
        row["mixture"]: (row["macro"], row["macro_sd"], row["seeds"])
        for row in study_leaderboard(own.lineage, warehouse).rows
        if row["decay_from"] is None
    }
    leaderboard = answers["1. The leaderboard"]
    assert {row[0]: pytest.approx(row[2:]) for row in leaderboard} == board
    gains = [row[3] for row in answers["2. Each mixture by task, against the original text"] if row[1] == "raw"]
    assert set(gains) == {0.0}
    superseded = {row[1]: row[3] for row in answers["9. What is current, and what was replaced"] if row[3]}
    assert superseded == {"mixtures/mixture": 1}


@pytest.mark.slow
def test_a_corpus_and_a_mixture_open_in_every_documented_reader(
    finished: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(finished.paths.data / "studies" / "small")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    page = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8").replace("my_text", "package_readmes")
    lines = [line.split(" | ") for line in page.splitlines() if "sources/corpus/package_readmes" in line][1:]
    names = {"datasets": datasets, "pyarrow": pa, "json": json}
    tables = []
    for tool, *calls in lines:
        for call in (call.strip(" |`") for call in calls):
            read = duckdb.sql(call).df() if tool == "| DuckDB" else pd.DataFrame(eval(call, names).to_pandas())
            tables.append(read)
    assert [len(table) for table in tables] == [24, 2] * 3
    assert all("text" in corpus and "epochs" in mixture for corpus, mixture in zip(*[iter(tables)] * 2, strict=True))
