"""The wheel in an empty virtual environment, outside the clone, with its base dependencies only."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.study.paths import REPOSITORY
from rephrase_parts import LocalServer, local_server

pytestmark = pytest.mark.slow  # builds and installs

MOST_PACKAGES = 60
OWN_LINE = re.compile(r"\[ *\d+\.\d s\] ")
UV = Path(sys.executable).with_name("uv")
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**CLEAN, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment into which only the wheel and its base dependencies are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=REPOSITORY)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    # The tested versions, so that a release of tomorrow does not decide whether the tests of today pass.
    tested = ("--constraint", REPOSITORY / "requirements" / "cpu.txt")
    for command in (
        (UV, "venv", "--quiet", "--python", sys.executable, environment),
        (UV, "pip", "install", "--quiet", "--python", environment / "bin" / "python", *tested, wheel),
    ):
        done = run(*command, folder=folder)
        assert done.returncode == 0, done.stderr
    return environment / "bin"


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        yield one


def test_the_base_installation_is_small_and_has_no_heavy_library(programs: Path) -> None:
    listed = run(UV, "pip", "list", "--python", programs / "python", "--format", "json", folder=programs)
    packages = {package["name"] for package in json.loads(listed.stdout)}
    assert len(packages) <= MOST_PACKAGES, sorted(packages)
    assert not {name for name in packages if name.startswith(("torch", "vllm", "transformers", "dagster", "mlflow"))}


def rephrase(programs: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    rows = folder / "documents.jsonl"
    rows.write_text("".join(json.dumps({"id": f"{n}", "text": f"Document {n}."}) + "\n" for n in range(20)))
    command = ("rephrase", "--input", rows, "--prompt", "faq,table", "--output", folder / "out", "--json", *arguments)
    return run(programs / "finephrase", *command, folder=folder)


def test_the_command_rephrases_against_an_endpoint_from_any_folder(
    programs: Path, tmp_path: Path, server: LocalServer
) -> None:
    done = rephrase(programs, tmp_path, "--endpoint", server.url, "--model", "tiny")
    assert done.returncode == 0, done.stderr
    datasets: dict[str, Any] = json.loads(done.stdout)["datasets"]
    assert {name: dataset["completed"] for name, dataset in datasets.items()} == {"faq": 20, "table": 20}
    assert len(server.requests) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents.jsonl", "out"]
    assert [line for line in done.stderr.splitlines() if not OWN_LINE.match(line)] == []


def test_the_python_api_rephrases_audits_and_reads_scores(programs: Path, tmp_path: Path, server: LocalServer) -> None:
    cell = f"""
import finephrase_dagster as fp
fp.rephrase_documents(["Ice floats."], prompt="faq", output="out", endpoint="{server.url}", model="tiny")
print(fp.read_dataset("out/faq").rows[0]["text"], fp.audit_dataset("out/faq").rows, fp.read_scores().num_rows)
"""
    done = run(programs / "python", "-c", cell, folder=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("Some words. 1 0", "")


def test_the_command_runs_every_gate_that_needs_no_model(programs: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{n}",
            "text": f"Q: What is {n}?\nA: It is {n}.",
            "source_text": f"A text on {n}.",
            "finish_reason": "stop",
        }
        for n in range(50)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("audit", "rows.jsonl", "--check", "faq", "--json", "--html", "page.html", "--rows", "failing.parquet")
    done = run(programs / "finephrase", *command, folder=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == 50
    assert set(report["skipped"].values()) <= {"needs drop_rows", "needs manifest", "needs model"}
    assert {"loops", "near_duplicates", "diversity", "language", "arithmetic", "contamination"} <= {
        gate["name"] for gate in report["gates"]
    }


def test_the_command_reads_the_shipped_studies_from_any_folder(programs: Path, tmp_path: Path) -> None:
    done = run(programs / "finephrase", "plan", "--study", "studies/finephrase.yaml", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"]["gpu_hours"] > 0


def test_the_version_is_the_packages(programs: Path, tmp_path: Path) -> None:
    done = run(programs / "finephrase", "--version", folder=tmp_path)
    assert done.stdout.strip() == "finephrase 0.1.0"


@pytest.mark.parametrize("command", ["materialize", "ui"])
def test_a_command_that_needs_a_clone_says_so(programs: Path, tmp_path: Path, command: str) -> None:
    done = run(programs / "finephrase", command, folder=tmp_path)
    assert done.returncode == 2
    assert f"finephrase {command} runs the Dagster project" in done.stderr
    assert "Clone the repository" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_command_whose_libraries_are_missing_names_the_extra_to_install(programs: Path, tmp_path: Path) -> None:
    done = rephrase(programs, tmp_path, "--generator", "rephraser")
    assert done.returncode == 2
    assert "--generator needs " in done.stderr
    assert "pip install 'finephrase-dagster[engine]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
