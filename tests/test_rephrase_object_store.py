"""`finephrase rephrase` from an object store into an object store: killed, resumed, and never two at once."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import s3fs

from finephrase_dagster.artifacts.claim import LOCK, META, FolderBusy
from finephrase_dagster.artifacts.folder import FolderUnusable
from finephrase_dagster.corpora import object_store as object_store_module
from finephrase_dagster.rephrase import lock
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.outcome import read_journal
from object_store import ObjectStore, object_store
from rephrase_parts import LocalServer, completion, documents, local_server

pytestmark = pytest.mark.slow  # a process for every run

PROMPTS = ("faq", "table")
ROWS = 150
CONCURRENCY = 8
BEFORE_THE_KILL = 170


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        lines = [json.dumps({"id": name, "text": text}) for name, text in documents(ROWS - 1)]
        lines.insert(40, json.dumps({"id": "empty", "text": ""}))
        running.files.pipe_file(f"{running.bucket}/in.jsonl.gz", gzip.compress("\n".join(lines).encode()))
        yield running


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 8192
        yield one


class Gate:
    """Lets a number of requests pass, and holds the others until it is opened."""

    def __init__(self, server: LocalServer, passing: int) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._left = threading.Semaphore(passing)
        server.answer = self._answer

    def open(self) -> None:
        self._open.set()

    def _answer(self, request: dict[str, Any]) -> Any:
        if not self._left.acquire(blocking=False):
            self.reached.set()
            self._open.wait()
        time.sleep(0.05)
        return completion("Here it is, in other words.")


def start(store: ObjectStore, server: LocalServer, output: str) -> subprocess.Popen[str]:
    options = {
        "--input": f"{store.bucket}/in.jsonl.gz",
        "--prompt": ",".join(PROMPTS),
        "--output": output,
        "--endpoint": server.url,
        "--model": server.model,
        "--concurrency": str(CONCURRENCY),
        "--chunk-rows": "25",
    }
    command = [sys.executable, "-m", "finephrase_dagster.commands.main", "rephrase", "--json"]
    words = [word for option in options.items() for word in option]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def messages(server: LocalServer) -> Counter[str]:
    """Count the requests by their messages."""
    return Counter(json.dumps(request["messages"]) for request in list(server.requests))


def stored(output: str) -> set[tuple[str, str]]:
    """Return the prompts and ids of all rows that a killed run recorded in journals and files."""
    found = set()
    for prompt in PROMPTS:
        folder = folder_at(f"{output}/{prompt}")
        for name in folder.names("__meta__/journals/*"):
            with contextlib.suppress(FileNotFoundError):  # a driver that is alive has joined it with others meanwhile
                found |= {(prompt, outcome.id) for _, outcome in read_journal(folder.read(name))}
        for name in folder.names("part-*.parquet"):
            found |= {(prompt, row) for row in pq.read_table(io.BytesIO(folder.read(name)))["id"].to_pylist()}
    return found - {(prompt, "empty") for prompt in PROMPTS}


def check_dataset(store: ObjectStore, output: str, prompt: str) -> None:
    """Check that every row is there once, every file is as the manifest lists it, and there is nothing else."""
    files = store.files
    manifest = json.loads(files.cat_file(f"{output}/{prompt}/__meta__/manifest.json"))
    assert [manifest[name] for name in ("rows_in", "completed", "skipped", "failed")] == [ROWS, ROWS - 1, 1, 0]
    ids = []
    for file in manifest["files"]:
        content = files.cat_file(f"{output}/{prompt}/{file['path']}")
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
        assert len(rows) == file["rows"]
        assert {row["prompt"] for row in rows} == {prompt}
        ids += [row["id"] for row in rows]
    assert sorted(ids) == sorted(name for name, _ in documents(ROWS - 1))
    rejected = pq.read_table(io.BytesIO(files.cat_file(f"{output}/{prompt}/__meta__/rejected.parquet"))).to_pylist()
    assert rejected == [{"id": "empty", "status": "skipped", "reason": "text is empty"}]
    root = f"{output}/{prompt}".removeprefix("s3://")
    paths = {path.removeprefix(f"{root}/") for path in files.find(root)}
    assert paths == {
        *(file["path"] for file in manifest["files"]),
        *(f"__meta__/{name}" for name in ("manifest.json", "rejected.parquet", "recipe.json")),
        *(f"__meta__/{name}" for name in ("account.json", "input.json", "parts.json", "verified.json")),
    }


@pytest.mark.parametrize(
    "uploaded",
    [
        pytest.param(True, id="once all answers are uploaded"),
        pytest.param(False, id="between two uploads", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_and_every_row_is_there_once(
    store: ObjectStore, server: LocalServer, uploaded: bool
) -> None:
    output = f"{store.bucket}/killed-{uploaded}"
    gate = Gate(server, BEFORE_THE_KILL)
    driver = start(store, server, output)
    assert gate.reached.wait(60)
    while uploaded and len(stored(output)) < BEFORE_THE_KILL:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    assert finish(driver)[0] == -signal.SIGKILL
    gate.open()
    before, kept = messages(server), stored(output)
    assert len(before) == before.total() <= BEFORE_THE_KILL + CONCURRENCY
    assert not store.files.exists(f"{output}/faq/__meta__/manifest.json")

    server.requests.clear()
    status, out, err = finish(start(store, server, output))
    assert status == 0, err
    assert {made["completed"] for made in json.loads(out)["datasets"].values()} == {ROWS - 1}
    after = messages(server)
    assert after.total() == len(after) == 2 * (ROWS - 1) - len(kept)
    assert len(before & after) == len(before) - len(kept)
    if uploaded:
        assert len(before & after) <= CONCURRENCY
    for prompt in PROMPTS:
        check_dataset(store, output, prompt)

    server.requests.clear()
    made = store.files.find(output, detail=True)
    status, out, err = finish(start(store, server, output))
    assert status == 0, err
    assert not server.requests
    assert store.files.find(output, detail=True) == made


def test_nothing_is_sent_and_nothing_is_lost_while_the_store_is_away(store: ObjectStore, server: LocalServer) -> None:
    output = f"{store.bucket}/away"
    answered: list[float] = []

    def answer(request: dict[str, Any]) -> Any:
        time.sleep(0.05)
        answered.append(time.monotonic())
        if len(answered) == 60:
            store.outage.set()
        return completion("Here it is, in other words.")

    server.answer = answer
    process = start(store, server, output)
    while not store.outage.is_set():
        time.sleep(0.05)
    began = time.monotonic()
    time.sleep(12)
    store.outage.clear()
    _, message = process.communicate(timeout=120)
    assert process.returncode == 0, message
    assert len([one for one in answered if began + 6 < one < began + 12]) == 0
    assert len(answered) == len(PROMPTS) * (ROWS - 1)
    assert "nothing is sent until the datasets' folder can be written" in message
    assert "no answer for" not in message  # it is not the endpoint that is waited for


def test_a_store_that_accepts_connections_and_is_silent_is_named_and_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = {"connect_timeout": 1, "read_timeout": 0.1, "retries": {"max_attempts": 0}}
    assert object_store_module.S3_BOUNDS.keys() == bounds.keys()
    monkeypatch.setattr(object_store_module, "NOTICE_SECONDS", 0.2)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": bounds})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "any")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(FolderUnusable, match="Read timeout"):
            folder_at("s3://bucket/silent").read("__meta__/manifest.json")
        s3fs.S3FileSystem.clear_instance_cache()
    assert "waiting for s3://bucket/silent: the store has not answered" in caplog.text


def test_a_second_process_is_refused_while_the_first_one_runs(store: ObjectStore, server: LocalServer) -> None:
    output = f"{store.bucket}/twice"
    gate = Gate(server, 5)
    first = start(store, server, output)
    assert gate.reached.wait(60)
    status, out, err = finish(start(store, server, output))
    assert (status, out) == (1, "")
    assert f"error: {output}/faq is being written by another process" in err
    assert "Traceback" not in err
    gate.open()
    assert finish(first)[0] == 0
    assert messages(server).total() == 2 * (ROWS - 1)
    for prompt in PROMPTS:
        check_dataset(store, output, prompt)


def test_the_lock_of_a_machine_whose_clock_is_wrong_is_kept_while_it_is_refreshed_and_not_longer(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_at(f"{store.bucket}/clock")
    for hours in (-1, 1):
        other = {"token": "other", "machine": "elsewhere", "process": "1", "heard": time.time() + 3600 * hours}
        folder.write(LOCK, json.dumps(other).encode())
        monkeypatch.setattr(lock, "SILENT_SECONDS", 60.0)
        with pytest.raises(FolderBusy, match="is being written by another process"), folder.claim():
            pass
        with pytest.raises(FolderBusy), folder.share():
            pass
        time.sleep(2.5)  # the store counts whole seconds
        monkeypatch.setattr(lock, "SILENT_SECONDS", 1.5)
        with folder.claim():
            assert json.loads(folder.read(LOCK))["token"] != "other"
        assert folder.names(f"{META}/*") == []


@pytest.mark.slow
def test_an_interrupted_run_releases_its_lock(store: ObjectStore, server: LocalServer) -> None:
    output = f"{store.bucket}/interrupted"
    gate = Gate(server, 60)
    first = start(store, server, output)
    assert gate.reached.wait(60)
    os.kill(first.pid, signal.SIGINT)
    status, _, err = finish(first)
    gate.open()
    assert status == 1, err
    assert "Traceback" not in err
    assert not store.files.exists(f"{output}/faq/__meta__/lock")
    assert len(stored(output)) >= 60 - CONCURRENCY
    server.requests.clear()
    assert finish(start(store, server, output))[0] == 0
    for prompt in PROMPTS:
        check_dataset(store, output, prompt)
