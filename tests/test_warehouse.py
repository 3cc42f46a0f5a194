"""The warehouse: recording twice changes nothing, and no row replaces another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from typing import Any

import duckdb
import pytest
from filelock import FileLock

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import SCORES, ItemKey
from finephrase_dagster.results import warehouse
from finephrase_dagster.results.leaderboard import compose_leaderboard
from finephrase_dagster.results.scored_runs import read_runs
from finephrase_dagster.results.warehouse import (
    UnusablePath,
    create_tables,
    key_of,
    mark_current,
    record_manifests,
    writing,
)
from finephrase_dagster.study.student import Seeds, StudentRun

CATEGORIES = {"GK": 0.1, "RC": 0.2}


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        create_tables(opened)
        yield opened


def run_of(mixture: str, seed: int = 0) -> StudentRun:
    return StudentRun(mixture=mixture, student="nano", seeds=Seeds(data=seed, model=seed))


Score = tuple[StudentRun, str, float | None, float | None]
"""A run, its recipe, its macro and its micro score."""


def record(connection: duckdb.DuckDBPyConnection, scores: list[Score], study: str = "demo") -> None:
    """Record the scores that a study refers to now, and no others."""
    current = []
    for run, recipe, macro, micro in scores:
        artifact = Artifact(key=ItemKey(kind=SCORES, run=run.name), recipe={"of": recipe}, root=Path())
        point = {"step": 9, "macro": macro, "micro": micro, "categories": CATEGORIES, "tasks": {"gsm8k": 0.1}}
        manifest = {"version": recipe, "curve": [point], "tasks": {"gsm8k": {"n": 24}}}
        record_manifests(connection, [(key_of(artifact), manifest)])
        names = {"mixture": run.mixture, "student": run.student, "seed": "0", "decay_from": run.decay_from}
        current.append((key_of(artifact), {**names, "parameters": None, "evaluation": "", "samples": None}))
    mark_current(connection, study, current)


def rows_of(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    return compose_leaderboard(read_runs(connection, ["demo"])).rows


def test_the_best_macro_score_comes_first_with_its_deviation_over_seeds(connection: duckdb.DuckDBPyConnection) -> None:
    record(
        connection,
        [(run_of("raw"), "a", 0.1, 0.1), (run_of("faq", 0), "b", 0.2, 0.1), (run_of("faq", 1), "c", 0.4, 0.1)],
    )
    first, second = rows_of(connection)
    assert (first["mixture"], first["seeds"]) == ("faq", 2)
    assert first["macro"] == pytest.approx(0.3)
    assert first["macro_sd"] == pytest.approx(0.2 / 2**0.5)
    assert (second["mixture"], second["macro_sd"]) == ("raw", None)
    assert second["categories"] == CATEGORIES


def test_a_decay_variant_does_not_count_as_a_seed_of_the_run_from_scratch(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    decayed = StudentRun(mixture="faq", student="nano", seeds=Seeds(data=0, model=0), decay_from="raw")
    record(connection, [(run_of("faq"), "a", 0.1, 0.1), (decayed, "b", 0.3, 0.1)])
    rows = rows_of(connection)
    assert [(row["decay_from"], row["seeds"], row["macro"]) for row in rows] == [("raw", 1, 0.3), (None, 1, 0.1)]


def test_recording_twice_changes_nothing(connection: duckdb.DuckDBPyConnection) -> None:
    record(connection, [(run_of("raw"), "a", 0.1, 0.1)])
    before = rows_of(connection)
    record(connection, [(run_of("raw"), "a", 0.1, 0.1)])
    assert rows_of(connection) == before
    assert connection.execute("SELECT count(*) FROM manifests").fetchone() == (1,)


def test_two_mixtures_with_equal_recipes_are_both_recorded(connection: duckdb.DuckDBPyConnection) -> None:
    record(connection, [(run_of("raw"), "same", 0.1, 0.1), (run_of("control"), "same", 0.1, 0.1)])
    assert {row["mixture"] for row in rows_of(connection)} == {"raw", "control"}


def test_scores_of_earlier_recipes_do_not_count(connection: duckdb.DuckDBPyConnection) -> None:
    record(connection, [(run_of("raw"), "earlier", 0.9, 0.1)])
    record(connection, [(run_of("raw"), "today", 0.1, 0.1)])
    (row,) = rows_of(connection)
    assert row["macro"] == pytest.approx(0.1)
    assert row["seeds"] == 1


def test_without_all_tasks_the_micro_score_ranks(connection: duckdb.DuckDBPyConnection) -> None:
    record(connection, [(run_of("worse"), "a", None, 0.1), (run_of("better"), "b", None, 0.2)])
    assert [(row["mixture"], row["macro"]) for row in rows_of(connection)] == [("better", None), ("worse", None)]


def test_scores_are_rows_with_their_names_steps_and_items(connection: duckdb.DuckDBPyConnection) -> None:
    record(connection, [(run_of("raw"), "a", 0.3, None)])
    query = (
        "SELECT kind, name, score, items FROM scores WHERE study = 'demo' AND mixture = 'raw' AND final ORDER BY 1, 2"
    )
    assert connection.execute(query).fetchall() == [
        ("category", "GK", 0.1, None),
        ("category", "RC", 0.2, None),
        ("mean", "macro", 0.3, None),
        ("task", "gsm8k", 0.1, 24),
    ]


def test_scores_have_bits_per_byte_and_means_over_five_steps(connection: duckdb.DuckDBPyConnection) -> None:
    record(connection, [(run_of("raw"), "a", 0.3, None)])
    point = {"macro": 0.3, "micro": None, "categories": {}, "held_out": 0.7}
    curve = [
        {**point, "step": step, "tasks": {"arc_cf:easy": step}, "bits_per_byte": {**point, "tasks": {"arc_cf:easy": 2}}}
        for step in (1, 2, 3, 4, 5, 9)
    ]
    curve[0]["tasks"] = curve[0]["bits_per_byte"]["tasks"] = {}
    connection.execute("UPDATE current SET names = json_merge_patch(names, ?)", [json.dumps({"curve": curve})])
    query = (
        "SELECT step, name, score, bits_per_byte, last5, bits_per_byte_last5 FROM scores WHERE step > 4 ORDER BY ALL"
    )
    assert connection.execute(query).fetchall() == [
        (5, "arc_cf:easy", 5, 2, None, None),
        (5, "held_out", 0.7, 0.7, pytest.approx(0.7), pytest.approx(0.7)),
        (5, "macro", 0.3, 0.3, pytest.approx(0.3), pytest.approx(0.3)),
        (9, "arc_cf:easy", 9, 2, pytest.approx(4.6), 2),
        (9, "held_out", 0.7, 0.7, pytest.approx(0.7), pytest.approx(0.7)),
        (9, "macro", 0.3, 0.3, pytest.approx(0.3), pytest.approx(0.3)),
    ]
    (run,) = read_runs(connection, ["demo"])
    assert run.scores["arc_cf:easy/bits_per_byte/last5"] == 2
    assert run.scores["held_out"] == 0.7


def tables_of(path: Path, study: str = "demo", recipe: str = "a") -> None:
    with writing(path) as opened:
        record(opened, [(run_of("raw"), recipe, 0.1, 0.1)], study)


def macros(path: Path, study: str) -> list[float]:
    with duckdb.connect(str(path), read_only=True) as opened:
        rows = opened.execute("SELECT score FROM scores WHERE name = 'macro' AND study = ?", [study]).fetchall()
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


def test_what_another_program_wrote_into_the_warehouse_and_did_not_finish_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    tables_of(path)
    opened = f"import duckdb, os; c = duckdb.connect({str(path)!r}); c.execute('DELETE FROM manifests')"
    assert subprocess.run([sys.executable, "-c", f"{opened}; os.kill(os.getpid(), 9)"]).returncode == -9
    assert path.with_name(f"{path.name}.wal").exists()
    tables_of(path, study="other")
    assert macros(path, "other") == macros(path, "demo") == [0.1]


def test_a_failed_writer_leaves_the_warehouse_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    tables_of(path)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), writing(path) as opened:
        record(opened, [(run_of("faq"), "b", 0.2, 0.1)])
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
        assert opened.execute("SELECT count(*) FROM manifests").fetchone() == (2,)


@pytest.mark.slow
def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"

    def write(number: int) -> None:
        with writing(path) as opened:
            record(opened, [(run_of(f"mixture_{number}"), str(number), 0.1, 0.1)], f"study_{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    with duckdb.connect(str(path), read_only=True) as opened:
        assert opened.execute("SELECT count(DISTINCT run) FROM scores").fetchone() == (24,)


def test_a_writer_that_waits_for_another_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "warehouse.duckdb"
    monkeypatch.setattr(warehouse, "SHORT_SECONDS", 0.05)
    monkeypatch.setattr(warehouse, "WRITER_SECONDS", 0.1)
    with FileLock(f"{path}.lock"), pytest.raises(warehouse.WarehouseBusy, match="more than"), warehouse.writing(path):
        pass
    assert f"waiting for the process that is writing {path}" in caplog.text


def test_a_folder_that_duckdb_would_write_elsewhere_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnusablePath, match="cannot have '\\?' in it"), writing(tmp_path / "a?b" / "warehouse.duckdb"):
        pass
    assert not list(tmp_path.iterdir())
    for name in ("a%b", "a#b", "a b [c]"):
        with writing(tmp_path / name / "warehouse.duckdb") as connection:
            connection.execute("FROM manifests")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b [c]", "a#b", "a%b"]
