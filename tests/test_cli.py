"""The command with wrong input: one clear message, the right exit status, no stack trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finephrase_dagster.study.places import REPOSITORY


def finephrase(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finephrase_dagster.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


@pytest.mark.parametrize("command", [["materialize"], ["ui"], ["results", "leaderboard"]])
def test_a_missing_study_is_a_wrong_request(command: list[str], data: str) -> None:
    done = finephrase(*command, "--study", "nothing.yaml", FINEPHRASE_DATA=data)
    assert done.returncode == 2
    assert "nothing.yaml: no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(data).exists()


def test_a_wrong_study_is_explained_and_nothing_is_started(tmp_path: Path, data: str) -> None:
    study = tmp_path / "study.yaml"
    study.write_text((REPOSITORY / "studies" / "demo.yaml").read_text().replace("samples: 1000", "samples: none"))
    done = finephrase("materialize", "--study", str(study), FINEPHRASE_DATA=data)
    assert done.returncode == 2
    assert "evaluation.samples" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(data).exists()


def test_an_unknown_prompt_lists_the_known_ones(tmp_path: Path, data: str) -> None:
    study = tmp_path / "study.yaml"
    text = (REPOSITORY / "studies" / "demo.yaml").read_text()
    study.write_text(text.replace("prompts: [faq,", "prompts: [poem, faq,"))
    done = finephrase("materialize", "--study", str(study), FINEPHRASE_DATA=data)
    assert done.returncode == 2
    assert "prompt 'poem': there is no file" in done.stderr
    assert "faq, math, table, tutorial" in done.stderr


def test_asking_for_a_leaderboard_that_is_not_there_says_what_to_make(data: str) -> None:
    done = finephrase("results", "leaderboard", "--json", FINEPHRASE_DATA=data)
    assert done.returncode == 1
    assert "is not there: materialise it first" in done.stderr
    assert done.stdout == ""


def test_an_instance_without_settings_is_named(tmp_path: Path, data: str) -> None:
    done = finephrase("materialize", FINEPHRASE_DATA=data, DAGSTER_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "has no dagster.yaml" in done.stderr


def test_an_empty_corpus_fails_with_its_name_and_leaves_nothing(tmp_path: Path, data: str) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    study = tmp_path / "study.yaml"
    text = (REPOSITORY / "studies" / "demo.yaml").read_text()
    start, end = text.index("  package_readmes: {kind"), text.index("  language_reference: {kind")
    study.write_text(f'{text[:start]}  package_readmes: {{kind: files, paths: ["{empty}"]}}\n{text[end:]}')
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    study.write_text(
        study.read_text().replace("sources: [package_readmes, language_reference]", "sources: [package_readmes]")
    )
    done = finephrase("materialize", "--study", str(study), FINEPHRASE_DATA=data, DAGSTER_HOME=str(home))
    assert done.returncode == 1
    assert "source package_readmes: holds no documents" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path(data).glob("sources/corpus/package_readmes/*/*.parquet"))


@pytest.mark.parametrize("arguments", [["--study"], ["--nothing"], ["extra"]])
def test_a_usage_error_is_a_wrong_request(arguments: list[str]) -> None:
    assert finephrase("materialize", *arguments).returncode == 2
