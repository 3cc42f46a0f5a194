"""The warehouse: recording twice changes nothing, and no row replaces another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import duckdb
import pytest

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import SCORES, ItemKey
from finephrase_dagster.results.warehouse import create_tables, leaderboard, mark_current, record_scores, writing
from finephrase_dagster.study.student import Seeds, StudentRun

CATEGORIES = {"GK": 0.1, "RC": 0.2}


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        create_tables(opened)
        yield opened


def run_of(mixture: str, seed: int = 0) -> StudentRun:
    return StudentRun(mixture=mixture, student="nano", seeds=Seeds(data=seed, model=seed))


def scores_of(run: StudentRun, recipe: str) -> Artifact:
    return Artifact(key=ItemKey(kind=SCORES, run=run.name), recipe={"of": recipe}, root=Path())


def record(
    connection: duckdb.DuckDBPyConnection, run: StudentRun, recipe: str, macro: float | None, micro: float | None = 0.1
) -> Artifact:
    artifact = scores_of(run, recipe)
    record_scores(
        connection, artifact, run, tasks={"gsm8k": (0.1, 24)}, categories=CATEGORIES, micro=micro, macro=macro
    )
    return artifact


def test_the_best_macro_score_comes_first_with_its_deviation_over_seeds(connection: duckdb.DuckDBPyConnection) -> None:
    scores = [
        record(connection, run_of("raw"), "a", 0.1),
        record(connection, run_of("faq", 0), "b", 0.2),
        record(connection, run_of("faq", 1), "c", 0.4),
    ]
    first, second = leaderboard(connection, scores)
    assert (first["mixture"], first["seeds"]) == ("faq", 2)
    assert first["macro"] == pytest.approx(0.3)
    assert first["macro_sd"] == pytest.approx(0.2 / 2**0.5)
    assert (second["mixture"], second["macro_sd"]) == ("raw", None)
    assert second["categories"] == CATEGORIES


def test_a_decay_variant_does_not_count_as_a_seed_of_the_run_from_scratch(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    decayed = StudentRun(mixture="faq", student="nano", seeds=Seeds(data=0, model=0), decay_from="raw")
    scores = [record(connection, run_of("faq"), "a", 0.1), record(connection, decayed, "b", 0.3)]
    rows = leaderboard(connection, scores)
    assert [(row["decay_from"], row["seeds"], row["macro"]) for row in rows] == [("raw", 1, 0.3), (None, 1, 0.1)]


def test_recording_twice_changes_nothing(connection: duckdb.DuckDBPyConnection) -> None:
    scores = [record(connection, run_of("raw"), "a", 0.1)]
    before = leaderboard(connection, scores)
    record(connection, run_of("raw"), "a", 0.1)
    assert leaderboard(connection, scores) == before


def test_two_mixtures_with_equal_recipes_are_both_recorded(connection: duckdb.DuckDBPyConnection) -> None:
    scores = [record(connection, run_of("raw"), "same", 0.1), record(connection, run_of("control"), "same", 0.1)]
    assert {row["mixture"] for row in leaderboard(connection, scores)} == {"raw", "control"}


def test_scores_of_earlier_recipes_do_not_count(connection: duckdb.DuckDBPyConnection) -> None:
    record(connection, run_of("raw"), "earlier", 0.9)
    (row,) = leaderboard(connection, [record(connection, run_of("raw"), "today", 0.1)])
    assert row["macro"] == pytest.approx(0.1)
    assert row["seeds"] == 1


def test_without_all_tasks_the_micro_score_ranks(connection: duckdb.DuckDBPyConnection) -> None:
    scores = [
        record(connection, run_of("worse"), "a", None, 0.1),
        record(connection, run_of("better"), "b", None, 0.2),
    ]
    assert [(row["mixture"], row["macro"]) for row in leaderboard(connection, scores)] == [
        ("better", None),
        ("worse", None),
    ]


def tables_of(path: Path, study: str = "demo", recipe: str = "a") -> Artifact:
    with writing(path) as opened:
        artifact = record(opened, run_of("raw"), recipe, 0.1)
        mark_current(opened, study, [artifact])
    return artifact


def macros(path: Path, study: str) -> list[float]:
    with duckdb.connect(str(path), read_only=True) as opened:
        rows = opened.execute("SELECT score FROM current_scores WHERE name = 'macro' AND study = ?", [study]).fetchall()
    return [score for (score,) in rows]


def test_a_program_that_has_the_warehouse_open_neither_waits_nor_lets_a_writer_wait(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    tables_of(path)
    code = f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "open\n"
        tables_of(path, study="other")
        assert macros(path, "other") == [0.1]
        reader.communicate("\n")
    assert macros(path, "other") == [0.1]


def test_a_failed_writer_leaves_the_warehouse_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    tables_of(path)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), writing(path) as opened:
        record(opened, run_of("faq"), "b", 0.2)
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, f"{path.name}.lock"}


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 5000])
def test_a_damaged_warehouse_is_kept_aside_and_begun_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "warehouse.duckdb"
    tables_of(path)
    path.write_bytes(damage(path.read_bytes()))
    tables_of(path)
    assert macros(path, "demo") == [0.1]
    if path.with_name("warehouse.duckdb.damaged").exists():
        assert "finephrase results rebuild" in caplog.text


def test_the_current_scores_are_those_that_a_study_refers_to_now(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    tables_of(path, recipe="earlier")
    tables_of(path, recipe="today")
    tables_of(path, study="other", recipe="earlier")
    assert macros(path, "demo") == [0.1]
    assert macros(path, "other") == [0.1]
    with duckdb.connect(str(path), read_only=True) as opened:
        assert opened.execute("SELECT count(*) FROM scores WHERE name = 'macro'").fetchone() == (2,)


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"

    def write(number: int) -> None:
        with writing(path) as opened:
            record(opened, run_of(f"mixture_{number}"), str(number), 0.1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    with duckdb.connect(str(path), read_only=True) as opened:
        assert opened.execute("SELECT count(DISTINCT run) FROM scores").fetchone() == (24,)
