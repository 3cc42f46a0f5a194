"""A published study beside one's own: its files are imported with their traps handled."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from finephrase_dagster.commands.main import app
from finephrase_dagster.evaluate.categories import categories, counted_tasks
from finephrase_dagster.results.external import FilesWrong, Imported, import_study, record_kept
from finephrase_dagster.results.published_names import components, is_original
from finephrase_dagster.results.scored_runs import ScoredRun, read_runs
from finephrase_dagster.results.warehouse import writing
from finephrase_dagster.study.paths import REPOSITORY

PUBLISHED = REPOSITORY / (os.environ.get("FINEPHRASE_PUBLISHED") or "../shared/published")
needs_published = pytest.mark.skipif(
    not (PUBLISHED / "benchmark-results.csv").is_file(), reason=f"no published files in {PUBLISHED}"
)


def score_rows(runs: Iterable[tuple[str, str, int, float]], **changes: float | str) -> list[dict[str, Any]]:
    """Return rows of a CSV file: each task of a run (name, seed, step, score) has the same score, unless changed."""
    return [
        {
            "runname": name,
            "seed": seed,
            "steps": step,
            **{f"lighteval|{task}|3/prob_norm_token": score for task in counted_tasks()},
            **changes,
        }
        for name, seed, step, score in runs
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def generation(run: str, *, change: float, **fields: Any) -> dict[str, Any]:
    """Return a generation run whose outputs score .5 higher than its inputs, and that states another change or none."""
    return {
        "run": run,
        "model": "maker/small",
        "source_dataset": "web",
        "prompt": "format/faq.md",
        "num_documents": 10,
        "failed_requests": 1,
        "input_tokens": 100,
        "output_tokens": 512 * 4096,
        "gpu_time_seconds": 3600.0,
        "output_tps_per_gpu": 5.0,
        "input_edu_score": 1.0,
        "output_edu_score": 1.5,
        "edu_score_difference": change,
        "training_run": "mix-fw_edu_hq-faq_1b_hq",
        **fields,
    }


def imported(folder: Path, rows: list[dict[str, Any]], generations: list[dict[str, Any]] | None = None) -> Imported:
    files = {"scores": write_csv(folder / "scores.csv", rows)}
    if generations is not None:
        files["generations"] = folder / "generations.json"
        files["generations"].write_text(json.dumps(generations))
    return import_study(folder / "data" / "warehouse.duckdb", "theirs", files)


def runs_of(folder: Path) -> dict[str, ScoredRun]:
    with duckdb.connect(str(folder / "data" / "warehouse.duckdb"), read_only=True) as connection:
        return {run.run: run for run in read_runs(connection)}


def test_a_seed_stands_in_the_name_or_in_a_column_that_tells_runs_apart(tmp_path: Path) -> None:
    runs = [
        ("raw", "42", 10, 0.1),
        ("faq-seed-3", "3", 10, 0.1),
        ("faq--data-seed=2-seed=1", "201", 10, 0.1),
        ("table", "1", 10, 0.1),
        ("table", "2", 10, 0.1),
        ("mix-web-faq-0.5b-seed-7", "7", 10, 0.1),
    ]
    imported(tmp_path, score_rows(runs))
    assert {(run.mixture, run.student, run.seed) for run in runs_of(tmp_path).values()} == {
        ("raw", "1.7b", None),
        ("faq", "1.7b", "3"),
        ("faq", "1.7b", "data 2, model 1"),
        ("table", "1.7b", "1"),
        ("table", "1.7b", "2"),
        ("mix-web-faq", "0.5b", "7"),
    }
    assert all(run.external for run in runs_of(tmp_path).values())


def test_a_series_that_ends_before_the_others_has_no_final_score(tmp_path: Path) -> None:
    runs = [("raw", "42", 5, 0.1), ("raw", "42", 10, 0.2), ("faq", "42", 10, 0.3), ("half", "42", 5, 0.4)]
    assert imported(tmp_path, score_rows(runs)).incomplete == ("half",)
    assert {run.run: (run.step, run.complete) for run in runs_of(tmp_path).values()} == {
        "raw": (10, True),
        "faq": (10, True),
        "half": (5, False),
    }


@pytest.mark.parametrize("cell", ["0.0", "", "nan"])
def test_a_task_stored_as_zero_is_missing_and_so_are_its_means(tmp_path: Path, cell: str) -> None:
    rows = score_rows([("raw", "42", 10, 0.25)], **{"lighteval|gsm8k|3/prob_norm_token": cell, "agg_score_MATH": "0"})
    assert imported(tmp_path, rows).missing == 1
    scores = runs_of(tmp_path)["raw"].scores
    assert not {"gsm8k", "MATH", "macro", "micro"} & set(scores)
    assert scores["GK"] == 0.25


def test_means_that_contradict_the_tasks_are_computed_again_and_reported(tmp_path: Path) -> None:
    rows = score_rows([("raw", "42", 10, 0.25)], agg_score_RC=0.5, agg_score_macro=0.25)
    assert imported(tmp_path, rows).deviation == 0.25
    assert runs_of(tmp_path)["raw"].scores["RC"] == 0.25


def test_a_file_with_means_alone_is_taken_as_it_is(tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv", [{"runname": "raw", "steps": 5, "agg_score_GK": 0.5, "agg_score_macro": 0.25}])
    import_study(tmp_path / "data" / "warehouse.duckdb", "theirs", {"scores": tmp_path / "scores.csv"})
    assert runs_of(tmp_path)["raw"].scores == {"GK": 0.5, "macro": 0.25}


def test_proxy_scores_that_contradict_themselves_do_not_count(tmp_path: Path) -> None:
    generations = [generation("sound", change=0.5), generation("broken", change=0.4)]
    result = imported(tmp_path, score_rows([("mix-fw_edu_hq-faq_1b_hq", "42", 4, 0.1)]), generations)
    assert result.broken_proxies == ("broken",)
    with duckdb.connect(str(tmp_path / "data" / "warehouse.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT prompt, completed, gpu_hours, proxies_valid FROM generations").fetchall()
    assert sorted(rows) == [("faq", 9, 1.0, False), ("faq", 9, 1.0, True)]
    assert runs_of(tmp_path)["mix-fw_edu_hq-faq_1b_hq"].epochs == 2  # half of 4 steps, of a dataset of one step


def test_the_name_of_a_mixture_shows_its_components_and_shares() -> None:
    assert components("dclm") == [("dclm", 1)]
    assert components("mix-0.3-fw_edu_hq-0.7-faq_1b_hq") == [("fw_edu_hq", 0.3), ("faq_1b_hq", 0.7)]
    assert components("mix-fw_edu_hq-tutorial_qwen3-1.7b_hq") == [("fw_edu_hq", 0.5), ("tutorial_qwen3-1.7b_hq", 0.5)]
    assert [is_original(name) for name in ("fw_edu_hq", "dclm", "faq_1b_dclm", "rewire", "baseline")] == [
        True,
        True,
        False,
        False,
        None,
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": "ten"}, "line 2: column 'steps' is 'ten'"),
        ({"steps": "1.5"}, "line 2: 'steps' is '1.5'"),
        ({"runname": ""}, "line 2: needs the columns"),
        ({"lighteval|gsm8k|3/prob_norm_token": "high"}, "line 2: column 'lighteval|gsm8k"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(tmp_path: Path, change: Mapping[str, str], words: str) -> None:
    with pytest.raises(FilesWrong, match=r".*") as caught:
        imported(tmp_path, score_rows([("raw", "42", 10, 0.1)], **change))
    assert words in str(caught.value)
    assert not (tmp_path / "data" / "warehouse.duckdb").exists()


def test_a_step_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FilesWrong, match="raw has step 10 twice"):
        imported(tmp_path, score_rows([("raw", "42", 10, 0.1), ("raw", "42", 10, 0.2)]))


def test_importing_again_replaces_the_study_and_a_deleted_warehouse_is_rebuilt(tmp_path: Path) -> None:
    imported(tmp_path, score_rows([("raw", "42", 10, 0.1), ("faq", "42", 10, 0.1)]))
    imported(tmp_path, score_rows([("raw", "42", 10, 0.3)]))
    before = runs_of(tmp_path)
    assert list(before) == ["raw"]
    warehouse = tmp_path / "data" / "warehouse.duckdb"
    warehouse.unlink()
    with writing(warehouse) as connection:
        assert record_kept(tmp_path / "data", connection) == ["theirs"]
    assert runs_of(tmp_path) == before


def test_the_command_refuses_what_is_no_file_of_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path / "data"))
    (tmp_path / "scores.csv").write_bytes(b"\xff\xfe\x00")
    for name, path in (("theirs", "nowhere.csv"), ("theirs", "scores.csv"), ("../theirs", "scores.csv")):
        command = ["results", "import", "--scores", str(tmp_path / path), "--name", name]
        assert CliRunner().invoke(app, command).exit_code == 2


@needs_published
def test_the_published_means_are_those_that_are_computed_from_the_tasks(tmp_path: Path) -> None:
    """Import takes at most 10 s, and each category, macro and micro equals the file's."""
    files = {
        "scores": PUBLISHED / "benchmark-results.csv",
        "generations": PUBLISHED / "rephrasing_metadata.json",
        "sweep": PUBLISHED / "throughput_sweep.csv",
    }
    started = time.monotonic()
    result = import_study(tmp_path / "data" / "warehouse.duckdb", "playbook", files)
    assert time.monotonic() - started < 10
    assert (result.runs, result.points, result.generations, result.settings) == (333, 6703, 90, 18)
    assert len(result.broken_proxies) == 7
    assert set(result.incomplete) == {
        "essentialweb_clean",
        "essentialweb_raw",
        "mix-fw_edu_hq-rephrase_4b_budget_1_lq",
    }
    runs, compared = runs_of(tmp_path), 0
    with files["scores"].open(newline="") as file:
        for row in csv.DictReader(file):
            scores = runs[row["runname"]].curve[int(row["steps"])]
            for mean in (*categories(), "macro", "micro"):
                compared += 1
                assert math.isclose(scores[mean], float(row[f"agg_score_{mean}"]), abs_tol=1e-12)
    assert compared == 8 * 6703
