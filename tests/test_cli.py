"""The command with wrong input: one clear message, the right exit status, no stack trace."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finephrase_dagster.artifacts.graph import State, items
from finephrase_dagster.artifacts.key import CHECKPOINT, SCORES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.commands.leaderboard import rows_with_unscored, unscored_lines
from finephrase_dagster.commands.options import paths_of
from finephrase_dagster.plan.obstacle import unscored_runs
from finephrase_dagster.study.paths import REPOSITORY


def finephrase(
    *arguments: str, largest_file: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command; `largest_file` is what the system lets it write, in bytes."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-m", "finephrase_dagster.commands.main", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def test_the_option_and_the_variable_find_a_study_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for name, place in (("mine.yaml", tmp_path), ("studies/demo.yaml", REPOSITORY), ("nothing.yaml", tmp_path)):
        monkeypatch.delenv("FINEPHRASE_STUDY", raising=False)
        assert paths_of(Path(name)).study == place / name
        monkeypatch.setenv("FINEPHRASE_STUDY", name)
        assert paths_of(None).study == place / name
        assert os.environ["FINEPHRASE_STUDY"] == str(place / name), "the web servers run in another folder"


@pytest.mark.slow
@pytest.mark.parametrize("command", [["materialize"], ["ui"], ["results", "leaderboard"]])
def test_a_missing_study_is_a_wrong_request(command: list[str], data: str) -> None:
    done = finephrase(*command, "--study", "nothing.yaml", FINEPHRASE_DATA=data)
    assert done.returncode == 2
    assert "nothing.yaml: no such study file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(data).exists()


@pytest.mark.slow
def test_a_wrong_study_is_explained_and_nothing_is_started(tmp_path: Path, data: str) -> None:
    study = tmp_path / "study.yaml"
    study.write_text((REPOSITORY / "studies" / "demo.yaml").read_text().replace("\nsequence: 256", "\nsequence: none"))
    done = finephrase("materialize", "--study", str(study), FINEPHRASE_DATA=data)
    assert done.returncode == 2
    assert "sequence: is 'none'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(data).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--port", "99999"], 2, "error: --port: 99999 is more than 65535. See: finephrase ui --help"),
        (["--mlflow-port", "0"], 2, "error: --mlflow-port: 0 is less than 1. See: finephrase ui --help"),
        (["--port", "4711", "--mlflow-port", "4711"], 2, "port 4711 is given for both Dagster and MLflow"),
    ],
)
def test_ports_that_cannot_be_are_refused(arguments: list[str], status: int, said: str, data: str) -> None:
    done = finephrase("ui", *arguments, FINEPHRASE_DATA=data)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unknown_prompt_lists_the_known_ones(tmp_path: Path, data: str) -> None:
    study = tmp_path / "study.yaml"
    text = (REPOSITORY / "studies" / "demo.yaml").read_text()
    study.write_text(text.replace("prompts: [faq,", "prompts: [poem, faq,"))
    done = finephrase("materialize", "--study", str(study), FINEPHRASE_DATA=data)
    assert done.returncode == 2
    assert "prompt 'poem' has no file" in done.stderr
    assert "known prompts: article, " in done.stderr


@pytest.mark.slow
def test_a_leaderboard_without_scores_names_the_command_that_computes_them(data: str) -> None:
    done = finephrase("results", "leaderboard", "--json", FINEPHRASE_DATA=data)
    assert done.returncode == 1
    assert "error: the study demo has no scores yet. Run: finephrase materialize --study" in done.stderr
    assert "studies/demo.yaml\n" in done.stderr
    assert done.stdout == ""
    done = finephrase("results", "compare", "--baseline", "readmes_rawx", FINEPHRASE_DATA=data)
    assert done.returncode == 2
    assert "--baseline: there is no 'readmes_rawx'; did you mean readmes_raw" in done.stderr
    for command in (["results", "compare", "--baseline", "readmes_raw"], ["trace", "readmes_raw"]):
        done = finephrase(*command, FINEPHRASE_DATA=data)
        assert done.returncode == 1, done.stderr
        assert re.search(r"Run: finephrase materialize --study \S*studies/demo\.yaml\n$", done.stderr)


def test_students_that_wait_for_the_same_are_one_line_and_rows_of_json(lineage: Lineage) -> None:
    graph = {item.name: item for item in items(lineage)}
    states = {
        name: State(status="missing" if item.key.kind in (CHECKPOINT, SCORES) else "current")
        for name, item in graph.items()
    }
    unscored = unscored_runs(lineage, graph, states)
    assert set(unscored) == set(lineage.study.student_runs)
    assert set(unscored.values()) == {"training/checkpoint is missing"}
    (line,) = unscored_lines(lineage, unscored)
    assert line == (
        "readmes_raw, reference_raw, faq_and_raw, formats_and_raw, all_formats_and_raw and 1 more (12 students): "
        "training/checkpoint is missing"
    )
    rows = rows_with_unscored([], lineage, unscored)
    assert [row["mixture"] for row in rows] == list(lineage.study.mixtures)
    assert all((row["seeds"], row["macro"], len(row["unscored"])) == (0, None, 2) for row in rows)


@pytest.mark.slow
def test_an_instance_without_settings_is_named(tmp_path: Path, data: str) -> None:
    done = finephrase("materialize", FINEPHRASE_DATA=data, DAGSTER_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "has no dagster.yaml" in done.stderr


def study_of(folder: Path, jsonl: str) -> tuple[Path, Path]:
    """A study whose only source is a JSONL file, and an instance's home beside it."""
    (folder / "source.jsonl").write_text(jsonl)
    text = (REPOSITORY / "studies" / "demo.yaml").read_text().replace("model: embedded\n", f"model: {folder}/nowhere\n")
    start, end = text.index("  package_readmes: {kind"), text.index("  language_reference: {kind")
    study = folder / "study.yaml"
    study.write_text(
        f'{text[:start]}  package_readmes: {{kind: files, paths: ["{folder}/source.jsonl"]}}\n{text[end:]}'
    )
    home = folder / "home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    return study, home


def waits_for_readmes(done: subprocess.CompletedProcess[str], data: str, message: str) -> None:
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path(data).glob("sources/corpus/package_readmes/*/*.parquet"))
    assert not list(Path(data).glob("sources/corpus/package_readmes/*/__meta__/manifest.json"))


@pytest.mark.slow
def test_an_empty_corpus_fails_with_its_name_and_leaves_nothing(tmp_path: Path, data: str) -> None:
    study, home = study_of(tmp_path, "")
    done = finephrase("materialize", "--study", str(study), FINEPHRASE_DATA=data, DAGSTER_HOME=str(home))
    waits_for_readmes(done, data, "source package_readmes: has no documents")


@pytest.mark.slow
def test_a_disk_without_room_fails_with_a_remedy_and_leaves_nothing_half_written(tmp_path: Path, data: str) -> None:
    rows = (json.dumps({"text": random.Random(row).randbytes(4000).hex()}) for row in range(2000))
    study, home = study_of(tmp_path, "\n".join(rows))
    done = finephrase(
        "materialize",
        "--study",
        str(study),
        FINEPHRASE_DATA=data,
        DAGSTER_HOME=str(home),
        largest_file=4_000_000,
    )
    waits_for_readmes(done, data, "Make room, or set FINEPHRASE_DATA to a larger disk")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["materialize", "--study"], "Option '--study' requires an argument. See: finephrase --help"),
        (["--nothing"], "No such option: --nothing. See: finephrase --help"),
        (["materialize", "extra"], "Got unexpected extra argument(s) (extra). See: finephrase materialize --help"),
        (["plan", "--gpus", "0"], "--gpus: 0 is less than 1. See: finephrase plan --help"),
        (["plan", "--gpus", "two"], "--gpus: 'two' is not a whole number. See: finephrase plan --help"),
        (["rephrase"], "Missing option '--input'. See: finephrase rephrase --help"),
        (
            ["results"],
            "Name a command: finephrase results leaderboard, finephrase results compare, finephrase results import, "
            "finephrase results rebuild, finephrase results mlflow, finephrase results figure, "
            "finephrase results proxies, finephrase results propose, finephrase results signal",
        ),
    ],
)
def test_a_usage_error_is_one_line_with_the_next_action(arguments: list[str], message: str) -> None:
    done = finephrase(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.slow
def test_a_log_format_that_does_not_exist_is_refused() -> None:
    done = finephrase("expand", FINEPHRASE_LOG_FORMAT="xml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: FINEPHRASE_LOG_FORMAT is 'xml'; write json, or unset it\n"


@pytest.mark.slow
def test_a_source_without_files_is_named_with_the_study_file_and_the_field(tmp_path: Path, data: str) -> None:
    study, home = study_of(tmp_path, "")
    (tmp_path / "source.jsonl").unlink()
    done = finephrase(
        "materialize", "--study", str(study), FINEPHRASE_DATA=str(tmp_path / "data"), DAGSTER_HOME=str(home)
    )
    assert done.returncode == 2
    place = f"error: {study}: sources.package_readmes: path {tmp_path}/source.jsonl: no such file"
    assert done.stderr.splitlines()[-1].startswith(place)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["plan", "--study", "studies/finephrase.yaml"],
        ["plan", "--json"],
        ["expand"],
        ["rephrase", "--help"],
    ],
)
def test_a_command_that_succeeds_prints_nothing_else(arguments: list[str], data: str) -> None:
    done = finephrase(*arguments, FINEPHRASE_DATA=data)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr == ""
    if "--json" in arguments:
        json.loads(done.stdout)
