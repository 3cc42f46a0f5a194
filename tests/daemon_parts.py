"""Parts for tests of a running Dagster: a study without training, a slow endpoint, a real daemon."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.partitions import TEMPLATE
from finephrase_dagster.study.paths import REPOSITORY
from installation import Installation, small_study
from rephrase_parts import write_model

CELL = "tiny__documents"
CELL_KEY = dg.AssetKey(["synthetic", CELL])
LOCATION, PROCESS = (Path(__file__).with_name(name) for name in ("daemon_location.py", "daemon_process.py"))
GOING = (
    BulkActionStatus.REQUESTED,
    BulkActionStatus.CANCELING,
)
PROMPTS = ("article", "faq", "math", "table")


def production_study(root: Path, *, documents: int = 12) -> dict[str, Any]:
    """Return a study that ends with its audits: a local model, few documents, four prompts, lenient gates."""
    with (root / "documents.jsonl").open("w", encoding="utf-8") as file:
        for number in range(documents):
            file.write(json.dumps({"id": f"d{number}", "text": f"Document {number:04d}. It has some words."}) + "\n")
    write_model(root / "model")
    return {
        "name": "production",
        "description": "Few documents, four prompts.",
        "prompts": list(PROMPTS),
        "sources": {"documents": {"kind": "files", "paths": [str(root / "documents.jsonl")]}},
        "generators": {
            "tiny": {
                "model": str(root / "model"),
                "context": 512,
                "max_tokens": 24,
                "sampling": {"seed": 0},
                "throughput": {"tokens_per_second": 1000, "basis": "made up"},
            }
        },
        "cells": [{"generator": "tiny", "source": "documents"}],
        "gates": small_study()["gates"],
    }


def production(root: Path, *, documents: int = 12) -> Installation:
    """Return an installation of this study whose corpus and model are materialized."""
    root.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "prompts", root / "prompts")
    (root / "dagster_home").mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", root / "dagster_home")
    made = Installation(root)
    made.write(production_study(root, documents=documents))
    definitions = build_defs(made.lineage)
    with dg.DagsterInstance.ephemeral() as instance:
        for job, partition in (("make__sources__corpus", "documents"), ("make__generators__model", "tiny")):
            run = definitions.resolve_job_def(job).execute_in_process(instance=instance, partition_key=partition)
            assert run.success
    return made


def published(installation: Installation, stage: str, **facts: object) -> None:
    """Publish the artifacts of a stage without content, with these facts."""
    for item in items(installation.lineage):
        if item.stage == stage:
            item.artifact().materialize(
                lambda folder: Contents(files=[], facts={"sampling": {}, "passed": True, "macro": 0.1, **facts})
            )


@dataclass
class Endpoint:
    """A chat completions server that records its requests and answers a limited number of them.

    Attributes:
        documents: the text of every request, in order.
        allowed: number of requests to answer; later ones wait until it is raised.
    """

    documents: list[str] = field(default_factory=list)
    answered: int = 0
    allowed: float = math.inf
    url: str = ""

    def answer(self, body: dict[str, Any]) -> bytes:
        self.documents.append("".join(message["content"] for message in body["messages"]))
        number = len(self.documents)
        while number > self.allowed:
            time.sleep(0.02)
        self.answered += 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "Some words."}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
        return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


@contextlib.contextmanager
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(json.dumps({"data": [{"id": "tiny", "max_model_len": 512}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with contextlib.suppress(OSError):  # the client may have ended
                self._send(made.answer(body))

        def _send(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.allowed = math.inf
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def daemon(installation: Installation, **environment: str) -> Iterator[psutil.Process]:
    """Run the daemon on an installation's code location; it has observed the prompts when the block begins."""
    with installation.instance():
        pass  # creates Dagster's databases, which several processes cannot do at once
    log = (installation.root / "daemon.log").open("wb")
    process = subprocess.Popen(
        [
            sys.executable,
            str(PROCESS),
            "run",
            "-f",
            str(Path(__file__).with_name("daemon_location.py")),
        ],
        cwd=Path(__file__).parent,
        env={
            **os.environ,
            "DAGSTER_HOME": str(installation.root / "dagster_home"),
            "FINEPHRASE_DATA": str(installation.paths.data),
            "INSTALLATION": str(installation.root),
            **environment,
        },
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        with installation.instance() as instance:
            until(lambda: process.poll() is not None or bool(instance.fetch_observations(TEMPLATE, limit=1).records))
        assert process.poll() is None, (installation.root / "daemon.log").read_text()[-3000:]
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def until(done: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait until a condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def backfilled(installation: Installation, key: dg.AssetKey, partitions: list[str], **tags: str) -> str:
    """Request a backfill as the web UI does; return its id."""
    with installation.instance() as instance:
        backfill = PartitionBackfill.from_asset_partitions(
            backfill_id=uuid.uuid4().hex[:8],
            asset_graph=build_defs(installation.lineage).resolve_asset_graph(),
            partition_names=partitions,
            asset_selection=[key],
            backfill_timestamp=time.time(),
            tags=tags,
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
        instance.add_backfill(backfill)
    return backfill.backfill_id


def ended(installation: Installation, backfill: str) -> BulkActionStatus:
    """Wait until a backfill has ended; return its status."""
    with installation.instance() as instance:
        until(lambda: (found := instance.get_backfill(backfill)) and found.status not in GOING)
        found = instance.get_backfill(backfill)
    assert found is not None
    return found.status
