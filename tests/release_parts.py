"""Building blocks of the tests of the release: a finished study without an engine, and a stand-in of the hub."""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.fingerprint import sha256_file, sha256_text
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.release import export
from finephrase_dagster.rephrase.journals import COMPLETED_SCHEMA
from finephrase_dagster.study.paths import REPOSITORY, Paths
from rephrase_parts import documents, write_corpus

STUDY = """
name: small
description: Two formats of some topics.
prompts: [faq, table]
sources:
  topics: {kind: files, paths: [CORPUS], license: PSF-2.0}
generators:
  writer:
    model: HuggingFaceTB/SmolLM2-135M-Instruct@main
    context: 1024
    max_tokens: 160
    license: Apache-2.0
    sampling: {temperature: 0.5, seed: 3}
cells:
  - {generator: writer, source: topics}
"""
SHARDS, DOCUMENTS = 2, 30
SMALL_FILE = 32_000  # bytes
GATES = [
    {"name": "form", "value": 0.97, "threshold": 0.9, "bound": "at least", "blocking": True, "passed": True},
    {"name": "loops", "value": 0.5, "threshold": 0.1, "bound": "at most", "blocking": False, "passed": False},
]


def finished_study(root: Path, extra: str = "release: {license: odc-by}\n", failed: tuple[str, ...] = ()) -> Paths:
    """Return a study whose datasets and audits exist; the audits of `failed` prompts did not pass."""
    root.mkdir(exist_ok=True)
    corpus = root / "corpus.jsonl"
    corpus.write_text('{"text": "one"}\n')
    (root / "study.yaml").write_text(STUDY.replace("CORPUS", str(corpus)) + extra)
    paths = Paths(data=root / "data", study=root / "study.yaml", prompts=REPOSITORY / "prompts")
    make_upstream(read_lineage(paths), failed)
    return paths


def make_upstream(lineage: Lineage, failed: tuple[str, ...] = ()) -> None:
    """Write the corpus, the model, the datasets and the audits of a study."""
    rows = [documents(DOCUMENTS, start=DOCUMENTS * number) for number in range(SHARDS)]

    def corpus(folder: Path) -> Contents:
        write_corpus(folder, rows)
        return listed(
            folder, "shard-*.parquet", {"rows": SHARDS * DOCUMENTS, "order": "a", "tokens": 1, "text_bytes": 4}
        )

    def model(folder: Path) -> Contents:
        (folder / "weights").write_text("weights")
        return Contents(files=[folder / "weights"], facts={"sampling": {}, "resolved": {"commit": "c0ffee" * 6}})

    lineage.source("topics").materialize(corpus)
    lineage.generator("writer").materialize(model)
    cell = lineage.study.cells[0]
    for prompt in lineage.study.prompts:

        def dataset(folder: Path, prompt: str = prompt) -> Contents:
            for shard, some in enumerate(rows):
                for chunk in (0, 1):
                    half = some[chunk * DOCUMENTS // 2 : (chunk + 1) * DOCUMENTS // 2]
                    table = completions(prompt, half)
                    pq.write_table(table, folder / f"part-{shard:05d}-{chunk:05d}.parquet", compression="zstd")
            count = SHARDS * DOCUMENTS
            facts = {"rows_in": count + 3, "completed": count, "skipped": 2, "not_eligible": 1, "failed": 1}
            facts |= {"prompt_tokens": 100 * count, "completion_tokens": 24 * count, "discarded": {}}
            facts |= {"goodput": {"engine_seconds": 7200, "gpu_hours": 2.0, "dollars": 6.0, "goodput": 0.44}}
            return listed(folder, "part-*.parquet", facts)

        def audit(folder: Path, prompt: str = prompt) -> Contents:
            (folder / "audit.json").write_text("{}")
            gates = [{**gate, "passed": gate["passed"] and prompt not in failed} for gate in GATES]
            passed = prompt not in failed
            facts: dict[str, Any] = {"passed": passed, "gates": gates}
            if "drops" in lineage.audit(cell, prompt).recipe:
                dropped = pa.table({"id": ["doc-1", "doc-40"]})
                pq.write_table(dropped, folder / "dropped.parquet")
                facts["dropped"] = {"rows": 2, "sha256": "of two rows"}
            return Contents(files=[folder / "audit.json"], facts=facts)

        lineage.dataset(cell, prompt).materialize(dataset)
        lineage.audit(cell, prompt).materialize(audit)


def completions(prompt: str, some: list[tuple[str, str]]) -> pa.Table:
    """Return the rows of a dataset."""
    rows = [
        (
            name,
            prompt,
            f"Q: Is it {name}?\nA: {text[:200]}\n\nQ: All?\nA: It is.",
            "stop",
            100,
            24,
            False,
            text,
        )
        for name, text in some
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return pa.table([*columns[:-1], [*map(sha256_text, columns[-1])], [""] * len(rows)], schema=COMPLETED_SCHEMA)


def listed(folder: Path, pattern: str, facts: dict[str, Any]) -> Contents:
    """Return files of a folder as the content of an artifact, with their rows."""
    files = [
        {"path": path.name, "rows": pq.read_metadata(path).num_rows, "sha256": sha256_file(path)}
        for path in sorted(folder.glob(pattern))
    ]
    return Contents(files=[], facts={**facts, "files": files})


def small_files(lineage: Lineage, folder: Path, log: Any = lambda line: None) -> list[dict[str, Any]]:
    folder.joinpath("__meta__").mkdir(parents=True, exist_ok=True)
    before = export.BATCH_ROWS, export.ROW_GROUP_BYTES
    export.BATCH_ROWS, export.ROW_GROUP_BYTES = 4, 2_000
    try:
        facts = export.export(export.dataset_parts(lineage, "faq"), folder, most_bytes=SMALL_FILE, log=log).facts
    finally:
        export.BATCH_ROWS, export.ROW_GROUP_BYTES = before
    return list(facts["files"])


@dataclass
class Hub:
    """What a stand-in of the hub holds, and how it misbehaves.

    Attributes:
        files: the content of each file of the repository.
        commits: the paths that each commit added.
        faults: requests to fail, once each: a part of the path, and a status, or `drop` (no answer), `lose` (the
            request is carried out, the answer lost).
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    faults: list[tuple[str, int | str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self) -> None:
        self.do_POST()

    def _answer(self, body: bytes) -> None:
        hub = self.hub
        hub.tokens.add(self.headers.get("Authorization", ""))
        fault = next((one for one in hub.faults if one[0] in self.path), None)
        if fault:
            hub.faults.remove(fault)
            if isinstance(fault[1], int):
                self._send({"error": "a fault"}, fault[1], {"Retry-After": "0"})
                return
            if fault[1] == "lose":
                self._result(body)
            self.close_connection = True
            self.connection.close()
            return
        self._send(self._result(body))

    def _result(self, body: bytes) -> Any:
        hub, path = self.hub, self.path.partition("?")[0]
        if path.endswith("/repos/create"):
            return {"url": f"{hub.url}/datasets/me/data"}
        if path.endswith("/validate-yaml"):
            return {"errors": [], "warnings": []}
        if "/tree/" in path:
            return [_entry(name, content) for name, content in sorted(hub.files.items())]
        if "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": _mode(name), "shouldIgnore": False} for name in files]}
        if path.endswith("/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            return {"transfer": "basic", "objects": [self._upload(one) for one in asked]}
        if path.startswith("/objects/"):
            oid = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == oid
            hub.uploads.append(oid)
            hub.objects[oid] = body
            return {}
        assert "/commit/" in path, path
        paths = []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                hub.files[value["path"]] = b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.files[value["path"]] = hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del hub.files[value["path"]]
            if "path" in value:
                paths.append(value["path"])
        hub.commits.append(paths)
        return {"commitUrl": f"{hub.url}/datasets/me/data/commit/{len(hub.commits)}", "commitOid": "0" * 40}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.hub.objects:
            return asked
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/objects/{asked['oid']}"}}}

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".parquet") else "regular"


def _entry(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
    if _mode(path) == "lfs":
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a stand-in of the hub on 127.0.0.1."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
