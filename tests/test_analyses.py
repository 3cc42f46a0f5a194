"""The leaderboard in the terminal: its table, and what the analyses conclude from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finephrase_dagster.commands.leaderboard import print_leaderboard
from finephrase_dagster.results.analyses import analyses

EARLY = [
    {"step": 500, "rank_correlation": 0.5, "regret": {"0.25": 0.01}},
    {"step": 900, "rank_correlation": None, "regret": {}},
]


def row(mixture: str, macro: float | None, **changes: Any) -> dict[str, Any]:
    fields = {
        "mixture": mixture,
        "student": "nano",
        "decay_from": None,
        "tokens": 1000,
        "mix_in": {"web": 0.5},
        "macro": macro,
        "metric": "macro",
        "score": macro,
        "held_out": None,
        "held_out_tasks": [],
        "macro_sd": 0.001,
        "micro": 0.02,
        "seeds": 2,
        "epochs": 1.5,
        "categories": {"GK": 0.25},
        "noise": 0.0012,
        "noise_source": "this study",
        "p_best": 0.5,
        "verdict": {0.03: "best", 0.029: "ties", None: None}.get(macro, "loses"),
        "against_original": None,
    }
    return {**fields, **changes}


ROWS = [row("faq", 0.03), row("table", 0.029, epochs=9.4), row("math", 0.01), row("raw", 0.03, mix_in={})]


def test_comparable_mixtures_are_listed_with_their_verdicts() -> None:
    (line,) = analyses()["comparable"].lines(ROWS, [])
    assert line == "nano, 50 % web: faq (best, 50 % best), table (ties, 50 % best), math (loses, 50 % best)"


def test_the_noise_of_a_student_is_stated_once() -> None:
    assert analyses()["noise"].lines(ROWS, []) == ["nano: 0.0012 (this study)"]


def test_text_that_was_seen_many_times_is_named() -> None:
    assert analyses()["repeated"].lines(ROWS, []) == ["table: 9.4 epochs"]


def test_early_scores_are_judged_by_what_they_predict() -> None:
    assert analyses()["early_scores"].lines(ROWS, EARLY) == ["step 500: 0.50; best 25 %: 0.0100", "step 900: -"]


def against(difference: float, *, matched: bool) -> dict[str, Any]:
    verdict = {"verdict": "beats", "interval": [0.001, 0.02], "seeds_to_decide": None, "baseline": "raw"}
    verdict["lower_is_better"] = False
    return {**verdict, "difference": difference, "matched": matched, "mismatches": [] if matched else ["tokens differ"]}


def test_the_printed_leaderboard_has_a_row_per_mixture_and_loses_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = [against(0.01, matched=True), against(0.01, matched=False)]
    first = [{**one, "against_original": verdict} for one, verdict in zip(ROWS, compared, strict=False)]
    rows = [
        *first,
        *ROWS[2:],
        row("a_mixture_with_a_name_that_is_longer_than_a_narrow_terminal_is_wide", None, decay_from="raw"),
    ]
    (tmp_path / "leaderboard.json").write_text(json.dumps(rows))
    (tmp_path / "early.json").write_text("[]")
    study = SimpleNamespace(description="Does it pay?")
    folder = SimpleNamespace(folder=tmp_path)
    paths = SimpleNamespace(warehouse=tmp_path / "warehouse.duckdb")
    lineage: Any = SimpleNamespace(leaderboard=lambda: folder, vocabulary=4096, study=study, paths=paths)
    print_leaderboard(lineage)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["Does", "it", "pay?"]
    assert lines[1][:3] == ["nano,", "1,000", "tokens:"]
    columns = ["mixture", "student", "macro", "×", "chance", "original", "±", "sd", "seeds", "epochs", "micro", "GK"]
    assert lines[2] == columns
    assert lines[4] == ["faq", "nano", "0.0300", "122.9", "0.0200", "0.0010", "2", "1.5", "0.0200", "0.2500"]
    assert lines[5][4] == "(0.0190)", "it cannot be compared with the original text"
    assert lines[8] == [rows[4]["mixture"], "(decay", "of", "raw)", "nano", "-", "-", "-", *lines[4][5:]]
