"""Two generators and two studies compared: which mixtures are paired, and what the command says about the pairs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from finephrase_dagster.artifacts.key import CHECKPOINT, SCORES
from finephrase_dagster.commands.main import app
from finephrase_dagster.plan.seeds import seed_cost
from finephrase_dagster.results.arms import arms
from finephrase_dagster.results.external import import_study
from finephrase_dagster.results.pairs import study_pairs
from finephrase_dagster.results.verdict import NotComparable, compare_arms
from finephrase_dagster.results.warehouse import create_tables, record_manifests
from test_published_study import PUBLISHED, generation, needs_published, score_rows, write_csv
from test_verdict import RAW, arm

SMALL, LARGE = "maker/small", "maker/large"


def import_scores(data: Path, name: str, means: dict[str, float], steps: int = 100) -> None:
    """Import three seeds of each mixture, and the datasets of two generators."""
    draw = np.random.default_rng(3)
    runs = [
        (f"{mixture}-seed-{seed}", str(seed), steps, float(mean + draw.normal(0, 0.001)))
        for mixture, mean in means.items()
        for seed in range(1, 4)
    ]
    data.mkdir(exist_ok=True)
    metadata = data / "generations.json"
    metadata.write_text(
        json.dumps(
            [
                generation(f"{prompt} {model}", change=0.5, model=model, prompt=f"format/{prompt}.md", training_run=run)
                for prompt, model, run in (
                    ("faq", SMALL, "mix-fw_edu_hq-faq_1b_hq"),
                    ("faq", LARGE, "mix-fw_edu_hq-faq_12b_hq"),
                    ("math", SMALL, "mix-fw_edu_hq-math_1b_hq"),
                    ("math", LARGE, "mix-0.2-fw_edu_hq-0.8-math_12b_hq"),
                    ("table", LARGE, "mix-fw_edu_hq-table_12b_hq"),
                )
            ]
        )
    )
    files = {"scores": write_csv(data / "scores.csv", score_rows(runs)), "generations": metadata}
    import_study(data / "warehouse.duckdb", name, files)


MEANS = {
    "fw_edu_hq": 0.10,
    "mix-fw_edu_hq-faq_1b_hq": 0.12,
    "mix-fw_edu_hq-faq_12b_hq": 0.14,
    "mix-fw_edu_hq-math_1b_hq": 0.12,
    "mix-0.2-fw_edu_hq-0.8-math_12b_hq": 0.14,
    "mix-fw_edu_hq-table_12b_hq": 0.13,
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path / "data"))
    import_scores(tmp_path / "data", "theirs", MEANS)
    return tmp_path / "data"


def compared(*options: str) -> Result:
    return CliRunner().invoke(app, ["results", "compare", *options])


def answer(*options: str) -> dict[str, Any]:
    result = compared(*options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_generators_are_compared_by_mixtures_of_the_same_prompts_and_sources(data: Path) -> None:
    found = answer("--name", "theirs", "--generators", SMALL, LARGE)
    rows = {row["baseline"]: row for row in found["comparisons"]}
    assert {baseline: row["mixture"] for baseline, row in rows.items()} == {
        "mix-fw_edu_hq-faq_1b_hq": "mix-fw_edu_hq-faq_12b_hq",
        "mix-fw_edu_hq-math_1b_hq": "mix-0.2-fw_edu_hq-0.8-math_12b_hq",
    }
    assert rows["mix-fw_edu_hq-faq_1b_hq"]["verdict"] == "beats"
    flagged = rows["mix-fw_edu_hq-math_1b_hq"]
    assert (flagged["verdict"], flagged["matched"]) == ("undecided", False)
    assert any(words.startswith("mix-in: 20 % fw_edu_hq against 50 %") for words in flagged["mismatches"])
    assert found["without_counterpart"] == ["mix-fw_edu_hq-table_12b_hq"]
    turned = answer("--name", "theirs", "--generators", LARGE, SMALL)["comparisons"]
    assert {row["verdict"] for row in turned} == {"loses", "undecided"}


def test_the_terminal_counts_the_verdicts_and_names_mixtures_without_a_counterpart(data: Path) -> None:
    text = compared("--name", "theirs", "--generators", SMALL, LARGE).stdout
    assert f"{LARGE} against {SMALL}: beats 1, not comparable 1" in text
    assert "without a counterpart: mix-fw_edu_hq-table_12b_hq" in text


def test_studies_are_compared_by_mixtures_of_one_name(data: Path) -> None:
    import_scores(data, "later", {"fw_edu_hq": 0.10, "mix-fw_edu_hq-faq_1b_hq": 0.15, "dclm": 0.1})
    found = answer("--studies", "theirs", "later")
    verdicts = {(row["baseline"], row["mixture"]): row["verdict"] for row in found["comparisons"]}
    assert set(verdicts) == {(f"theirs: {name}", name) for name in ("fw_edu_hq", "mix-fw_edu_hq-faq_1b_hq")}
    assert verdicts["theirs: mix-fw_edu_hq-faq_1b_hq", "mix-fw_edu_hq-faq_1b_hq"] == "beats"
    assert verdicts["theirs: fw_edu_hq", "fw_edu_hq"] in ("ties", "undecided")
    assert "later: dclm" in found["without_counterpart"]


def test_an_undecided_pair_comes_with_seeds_and_their_cost_and_names_the_studies_of_its_noise(data: Path) -> None:
    import_scores(data, "later", {"fw_edu_hq": 0.1015, "mix-fw_edu_hq-faq_1b_hq": 0.15})
    rows = {row["mixture"]: row for row in answer("--studies", "theirs", "later")["comparisons"]}
    assert rows["fw_edu_hq"]["verdict"] == "undecided"
    assert rows["fw_edu_hq"]["seeds_to_decide"] > 0
    assert rows["fw_edu_hq"]["cost_to_decide"]["gpu_hours"] > 0
    assert {row["noise"]["source"].split(":")[0] for row in rows.values()} == {"theirs and later"}
    text = compared("--studies", "theirs", "later").stdout
    assert re.search(r"fw_edu_hq: \d+ more seeds per mixture would probably decide \([\d.,]+ GPU-hours", text)
    mine = answer("--name", "theirs", "--generators", SMALL, LARGE)["comparisons"]
    assert all(row["noise"]["source"].startswith("this study: ") for row in mine)


def test_further_seeds_of_another_study_cost_what_they_cost_when_they_were_recorded() -> None:
    import duckdb

    (mine,) = arm("faq", [0.1])
    with duckdb.connect() as connection:
        create_tables(connection)
        assert seed_cost([mine], None, connection) is None
        for kind, seconds in ((CHECKPOINT, 3600), (SCORES, 1800)):
            key = f"{kind.asset} {mine.run}", kind.asset, mine.run
            record_manifests(connection, [(key, {"version": "1", "seconds": seconds, "gpus": 2})])
            connection.execute("INSERT INTO current VALUES (?, ?, ?, ?, false, '{}')", ["demo", *key])
        cost = seed_cost([mine, mine], None, connection)
        assert cost is not None
        assert (cost.hours, cost.gpu_hours) == (3.0, 6.0)


def test_studies_that_trained_for_another_number_of_tokens_are_not_ranked(data: Path) -> None:
    import_scores(data, "longer", {"fw_edu_hq": 0.2}, steps=200)
    (row,) = answer("--studies", "theirs", "longer")["comparisons"]
    assert (row["verdict"], row["matched"]) == ("undecided", False)
    assert row["difference"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "mismatches"),
    [
        ({"training": "a"}, []),
        ({"training": "a", "student": "other_name"}, []),
        ({"training": "b"}, ["training settings: b against a"]),
        ({"training": "a", "held_out": ("drop",)}, ["held-out tasks: drop against none"]),
        ({"student": "other", "parameters": 1001}, ["student: other against nano", "parameters: 1,001 against 1,000"]),
    ],
)
def test_students_of_two_studies_are_one_by_their_training_not_by_their_name(
    changes: dict[str, Any], mismatches: list[str]
) -> None:
    every = arms([*arm("faq", RAW, training="a"), *arm("faq", [0.2, 0.201, 0.199], study="later", **changes)])
    (verdict,) = compare_arms(study_pairs(every, ("demo", "later")).pairs, every)
    assert list(verdict.mismatches) == mismatches
    assert verdict.verdict == ("undecided" if mismatches else "beats")


def test_the_same_students_under_the_names_of_two_studies_are_not_compared() -> None:
    runs = arm("faq", RAW)
    every = arms([*runs, *(replace(run, study="later") for run in runs)])
    (verdict,) = compare_arms(study_pairs(every, ("demo", "later")).pairs, every)
    assert verdict.mismatches == ("the same on both sides: 3 of 3 students",)


def test_students_of_other_sizes_are_no_pair() -> None:
    every = arms([*arm("faq", RAW), *arm("faq", RAW, study="later", student="giant", parameters=10**9)])
    with pytest.raises(NotComparable, match=r"students of one size\. demo: faq \(nano\); later: faq \(giant\)"):
        study_pairs(every, ("demo", "later"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "one of them"),
        (["--baseline", "fw_edu_hq", "--generators", SMALL, LARGE], "one of them"),
        (["--studies", "theirs", "theirs"], "cannot be compared with itself"),
        (["--studies", "theirs", "nobodys"], "no study 'nobodys'"),
        (["--studies", "theirs", "later", "--name", "theirs"], "leave out --name"),
        (["--generators", SMALL, "maker/none", "--name", "theirs"], f"maker/none: none.*{LARGE}"),
    ],
)
def test_a_wrong_question_names_what_can_be_asked(data: Path, options: list[str], words: str) -> None:
    result = compared(*options)
    assert result.exit_code == 2
    assert re.search(words, " ".join(f"{result.output} {result.exception}".split()))


@needs_published
def test_one_published_generator_beats_another_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path))
    files = {"scores": "benchmark-results.csv", "generations": "rephrasing_metadata.json"}
    import_study(tmp_path / "warehouse.duckdb", "playbook", {kind: PUBLISHED / name for kind, name in files.items()})
    sides = "google/gemma-3-1b-it", "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    rows = answer("--name", "playbook", "--generators", *sides)["comparisons"]
    verdicts = [row["verdict"] for row in rows if row["matched"]]
    assert verdicts.count("beats") == 11
    assert verdicts.count("loses") == 0
