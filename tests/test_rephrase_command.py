"""`finephrase rephrase` against a local server: what it writes, resumes and refuses.

What depends on the process is tested with one: its output streams, signals, and what a killed one leaves. The other
runs are in this process, which has loaded the command's modules already.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.commands.main import app
from finephrase_dagster.rephrase.account import SAVE_SECONDS
from finephrase_dagster.study.paths import REPOSITORY
from installation import tiny_model
from rephrase_parts import LocalServer, completion, documents, failure, local_server, write_tokenizer

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "finephrase_dagster.commands.main"]


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        yield one


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", documents(60))


def write_rows(path: Path, rows: Sequence[tuple[str, str | None]]) -> Path:
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in rows), encoding="utf-8")
    return path


def arguments(rows: Path, output: Path, server: LocalServer, *more: str) -> list[str]:
    return [
        *("rephrase", "--input", str(rows), "--prompt", "faq,math", "--output", str(output)),
        *("--endpoint", server.url, "--model", "tiny", "--max-tokens", "64", "--seed", "0", "--json", *more),
    ]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process."""
    result = CliRunner().invoke(app, command, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr, result.stderr
    return subprocess.CompletedProcess(command, result.exit_code, result.stdout, result.stderr)


def run_process(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process."""
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [*COMMAND, *command], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a process of the command."""

    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )


def until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def dataset(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a complete dataset; check that its files are those of the manifest."""
    manifest = json.loads((folder / "__meta__" / "manifest.json").read_text())
    assert manifest["rows_in"] == manifest["completed"] + manifest["skipped"] + manifest["failed"]
    for file in manifest["files"]:
        assert sha256_file(folder / file["path"]) == file["sha256"]
        assert pq.read_metadata(folder / file["path"]).num_rows == file["rows"]
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    held -= {
        f"__meta__/{name}"
        for name in ("lock", "recipe.json", "input.json", "parts.json", "verified.json", "account.json")
    }
    assert held == {
        "__meta__/manifest.json",
        "__meta__/rejected.parquet",
        *(file["path"] for file in manifest["files"]),
    }
    found = [row for file in manifest["files"] for row in pq.read_table(folder / file["path"]).to_pylist()]
    assert len(found) == manifest["completed"]
    return found


def test_it_writes_one_dataset_per_prompt_and_reports_in_json(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    done = run_process(arguments(rows, tmp_path / "out", server))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for name in ("faq", "math"):
        assert report["datasets"][name]["completed"] == 60
        assert sorted(row["id"] for row in dataset(tmp_path / "out" / name)) == sorted(i for i, _ in documents(60))
    assert len(server.requests) == 120
    assert all("temperature" not in request and request["max_tokens"] == 64 for request in server.requests)
    recipe = json.loads((tmp_path / "out" / "faq" / "__meta__" / "manifest.json").read_text())["recipe"]
    assert recipe["sampling"] == {
        "temperature": "server default",
        "top_p": "server default",
        "top_k": "server default",
        "seed": 0,
    }
    assert (recipe["context"], recipe["max_tokens"]) == (4096, 64)
    again = run_process(arguments(rows, tmp_path / "out", server))
    assert (again.returncode, len(server.requests)) == (0, 120)
    assert "everything was complete already; nothing was sent" in again.stderr


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_resumes_and_repeats_only_what_was_in_flight(
    tmp_path: Path, server: LocalServer, rows: Path, sent: signal.Signals
) -> None:
    server.answer = lambda request: time.sleep(0.05) or completion()
    command = arguments(rows, tmp_path / "out", server, "--concurrency", "4", "--chunk-rows", "7")
    began = time.monotonic()
    driver = start(command)
    until(lambda: len(server.requests) >= 50)
    driver.send_signal(sent)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == (1 if sent != signal.SIGKILL else -signal.SIGKILL), said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").rglob("manifest.json"))
    server.answer = lambda request: completion()
    done = run(command)
    assert done.returncode == 0, done.stderr
    for name in ("faq", "math"):
        assert len({row["id"] for row in dataset(tmp_path / "out" / name)}) == 60
    assert 120 <= len(server.requests) <= 124
    accounts = [dataset["goodput"] for dataset in json.loads(done.stdout)["datasets"].values()]
    lost = sum(account["parts"]["unaccounted"] for account in accounts)
    assert (0.5 < lost <= SAVE_SECONDS) if sent == signal.SIGKILL else lost == 0
    assert sum(account["engine_seconds"] for account in accounts) <= time.monotonic() - began
    assert sum(account["parts"]["kept"] for account in accounts) > 0


def test_a_killed_retry_of_failed_rows_resumes_and_keeps_what_was_paid_for(
    tmp_path: Path, server: LocalServer, rows: Path
) -> None:
    def answer(request: dict[str, Any]) -> Any:
        words = request["messages"][-1]["content"]
        return failure(400, "not now") if any(f"Document {n}." in words for n in range(20, 50)) else completion("first")

    server.answer = answer
    command = arguments(rows, tmp_path / "out", server, "--concurrency", "2", "--chunk-rows", "7")
    assert run(command).returncode == 0
    first = json.loads((tmp_path / "out" / "faq" / "__meta__" / "manifest.json").read_text())
    assert (first["completed"], first["failed"]) == (30, 30)
    server.requests.clear()
    server.answer = lambda request: time.sleep(0.05) or completion("second")
    driver = start([*command, "--retry-failed"])
    until(lambda: len(server.requests) >= 30)
    driver.kill()
    driver.communicate()
    done = run(command)
    assert done.returncode == 0, done.stderr
    for name in ("faq", "math"):
        texts = Counter(row["text"] for row in dataset(tmp_path / "out" / name))
        assert texts == {"first": 30, "second": 30}
    assert 60 <= len(server.requests) <= 62
    assert json.loads(done.stdout)["datasets"]["faq"]["fingerprint"] == first["fingerprint"]


@pytest.mark.parametrize("damage", [b"deadbeef {}\n", b"00", b"\x00" * 99, None])
def test_a_damaged_end_of_a_journal_costs_only_its_last_rows(
    tmp_path: Path, server: LocalServer, rows: Path, damage: bytes | None
) -> None:
    server.answer = lambda request: completion() if len(server.requests) <= 40 else time.sleep(0.05) or completion()
    command = arguments(rows, tmp_path / "out", server, "--concurrency", "2")
    driver = start(command)
    until(lambda: len(server.requests) >= 60)
    driver.kill()
    driver.communicate()
    server.answer = lambda request: completion()
    journals = list((tmp_path / "out").glob("*/__meta__/journals/*"))
    assert len(journals) == 2
    for journal in journals:
        content = journal.read_bytes()
        journal.write_bytes(content + damage if damage else content[:-5])
    assert run(command).returncode == 0
    for name in ("faq", "math"):
        assert len({row["id"] for row in dataset(tmp_path / "out" / name)}) == 60
    assert 120 <= len(server.requests) <= 124


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "1"], "sampling.seed: 0 -> 1"),
        (["--temperature", "0.5"], 'sampling.temperature: "server default" -> 0.5'),
        (["--max-tokens", "65"], "max_tokens: 64 -> 65"),
        (["--context", "4000"], "context: 4096 -> 4000"),
        (["--model", "other", "--context", "4096"], 'model: "tiny" -> "other"'),
        (["--limit", "59"], "rows: "),
        (["--keep-raw"], "keep_raw: null -> true"),
    ],
)
def test_another_recipe_is_refused_and_the_difference_is_named(
    tmp_path: Path, server: LocalServer, rows: Path, change: list[str], named: str
) -> None:
    assert run(arguments(rows, tmp_path / "out", server)).returncode == 0
    done = run(arguments(rows, tmp_path / "out", server, *change))
    assert done.returncode == 2
    assert named in done.stderr
    assert len(server.requests) == 120


def test_another_recipe_is_refused_also_for_an_incomplete_dataset(
    tmp_path: Path, server: LocalServer, rows: Path
) -> None:
    server.answer = lambda request: completion() if len(server.requests) <= 20 else time.sleep(0.05) or completion()
    driver = start(arguments(rows, tmp_path / "out", server, "--concurrency", "2"))
    until(lambda: len(server.requests) >= 40)
    driver.kill()
    driver.communicate()
    done = run(arguments(rows, tmp_path / "out", server, "--seed", "1"))
    assert (done.returncode, "sampling.seed: 0 -> 1" in done.stderr) == (2, True)


def test_execution_settings_are_not_part_of_the_recipe(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    assert run(arguments(rows, tmp_path / "out", server)).returncode == 0
    moved = rows.rename(tmp_path / "elsewhere.jsonl")
    with local_server() as other:
        other.context = 4096
        command = arguments(moved, tmp_path / "out", other, "--concurrency", "3", "--chunk-rows", "9")
        assert (run(command).returncode, other.requests) == (0, [])


def test_a_second_process_is_refused_while_the_first_writes(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    gate = threading.Event()
    server.answer = lambda request: (gate.wait(60) and completion()) or completion()
    first = start(arguments(rows, tmp_path / "out", server))
    until(lambda: bool(server.requests))
    second = run(arguments(rows, tmp_path / "out", server))
    assert (second.returncode, "written by another process" in second.stderr) == (1, True)
    gate.set()
    assert (first.communicate(timeout=60), first.returncode)[1] == 0
    assert len(server.requests) == 120


def test_the_documents_are_cut_by_bytes_and_the_instruction_survives(tmp_path: Path, server: LocalServer) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [("long", "déjà vu " * 3000), ("short", "Short."), ("huge", "x" * 10**7)])
    assert run(arguments(rows, tmp_path / "out", server)).returncode == 0
    for request in server.requests:
        words = request["messages"][-1]["content"]
        assert len(words.encode()) + 64 <= 4096
        assert "Q:" in words or "problem" in words
    assert {row["id"]: row["document_cut"] for row in dataset(tmp_path / "out" / "faq")} == {
        "long": True,
        "short": False,
        "huge": True,
    }


def test_a_tokenizer_counts_exactly_and_is_part_of_the_recipe(tmp_path: Path, server: LocalServer) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer")
    rows = write_rows(tmp_path / "in.jsonl", [("long", "word " * 6000)])
    assert run(arguments(rows, tmp_path / "a", server, "--tokenizer", str(folder))).returncode == 0
    longest = max(len(request["messages"][-1]["content"]) for request in server.requests)
    assert longest > 4096
    recipe = json.loads((tmp_path / "a" / "faq" / "__meta__" / "manifest.json").read_text())["recipe"]
    assert len(recipe["tokenizer"]) == 16


def test_raw_completions_are_kept_on_request(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    server.answer = lambda request: completion("Here is the table:\n\n| a |")
    assert run(arguments(rows, tmp_path / "out", server, "--keep-raw")).returncode == 0
    for row in dataset(tmp_path / "out" / "faq"):
        assert (row["text"], row["raw"]) == ("| a |", "Here is the table:\n\n| a |")


def test_failures_are_reported_and_the_exit_status_is_0(tmp_path: Path, server: LocalServer) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [*documents(8), ("null", None)])
    server.answer = lambda request: (
        failure(400, "too dull") if "Document 5." in str(request["messages"]) else completion()
    )
    done = run(arguments(rows, tmp_path / "out", server))
    report = json.loads(done.stdout)["datasets"]["faq"]
    assert (done.returncode, report["completed"], report["skipped"], report["failed"]) == (0, 7, 1, 1)
    assert report["reasons"] == {"failed: HTTP 400: too dull": 1, "skipped: text is missing": 1}
    rejected = pq.read_table(tmp_path / "out" / "faq" / "__meta__" / "rejected.parquet").to_pylist()
    assert Counter(row["status"] for row in rejected) == {"failed": 1, "skipped": 1}


def test_the_key_is_sent_and_never_shown_or_stored(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    done = run_process(arguments(rows, tmp_path / "out", server), FINEPHRASE_API_KEY="sesame-73")
    assert done.returncode == 0
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sesame-73"}
    assert "sesame-73" not in done.stdout + done.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"sesame-73" in path.read_bytes()]


def test_an_option_may_have_several_values_or_be_repeated(tmp_path: Path, server: LocalServer) -> None:
    files = [str(write_rows(tmp_path / f"{start}.jsonl", documents(3, start=start))) for start in (0, 3, 6)]
    with local_server() as other:
        command = [
            *("rephrase", "--input", *files[:2], "--input", files[2]),
            *("--prompt", "faq", "--output", str(tmp_path / "out"), "--endpoint", server.url, other.url),
            *("--model", "tiny", "--context", "4096"),
        ]
        done = run(command)
        assert done.returncode == 0, done.stderr
        assert len(server.requests) + len(other.requests) == 9
        assert min(len(server.requests), len(other.requests)) > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--prompt", "nonsense"], "prompt 'nonsense': no such file"),
        (["--prompt", "faq,faq"], "names 'faq' more than once"),
        (["--generator", "rephraser"], "--generator and --endpoint exclude each other; give one of them"),
        (["--endpoint", "ftp://x"], "write http://HOST:PORT"),
        (["--model", "other"], "has no model 'other'; it has: tiny"),
        (["--max-tokens", "4096"], "leaves no room"),
        (["--max-tokens", "4000"], "raise the context, lower max_tokens"),
        (["--max-tokens", "0"], "max-tokens"),
        (["--concurrency", "0"], "concurrency"),
        (["--input", "none.jsonl"], "none.jsonl: no such file"),
        (["--tokenizer", "./nowhere"], "tokenizer cannot be loaded"),
        (["--output", "{rows}"], "is a file; name a folder"),
        (["--output", "nope://x/y"], "nope"),
    ],
)
def test_a_wrong_request_is_one_message_and_exit_status_2(
    tmp_path: Path, server: LocalServer, rows: Path, change: list[str], complaint: str
) -> None:
    done = run(arguments(rows, tmp_path / "out", server, *(word.replace("{rows}", str(rows)) for word in change)))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert server.requests == []
    assert not list((tmp_path / "out").rglob("*")) or not list((tmp_path / "out").rglob("part-*"))


def test_an_unreachable_endpoint_is_exit_status_1(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    server.url = "http://127.0.0.1:9"
    done = run_process(arguments(rows, tmp_path / "out", server, "--context", "4096"))
    assert done.returncode == 1
    assert "http://127.0.0.1:9 answers nothing" in done.stderr


def test_a_generator_of_a_study_runs_on_an_engine_of_its_own(tmp_path: Path) -> None:
    demo = (REPOSITORY / "studies" / "demo.yaml").read_text()
    study = tmp_path / "study.yaml"
    study.write_text(demo.replace("model: embedded\n    context", f"model: {tiny_model()}\n    context"))
    rows = write_rows(tmp_path / "in.jsonl", documents(6))
    command = [
        *("rephrase", "--study", str(study), "--json"),
        *("--input", str(rows), "--prompt", "faq", "--output", str(tmp_path / "out")),
        *("--generator", "rephraser", "--max-tokens", "16", "--seed", "5"),
    ]
    done = run_process(command, FINEPHRASE_DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stderr.splitlines()
    assert first.endswith("loading libraries and the model of rephraser")
    assert re.search(r"sampling: temperature [\d.]+, top_p [\d.]+, max_tokens \d+$", second)
    report = json.loads(done.stdout)["datasets"]["faq"]
    assert report["completed"] == 6
    assert report["run"]["engine_start_seconds"] > 1
    recipe = json.loads((tmp_path / "out" / "faq" / "__meta__" / "manifest.json").read_text())["recipe"]
    assert (recipe["sampling"]["seed"], recipe["max_tokens"]) == (5, 16)
    assert f" ({recipe['model']}) | 6 |" in (tmp_path / "out" / "README.md").read_text()
