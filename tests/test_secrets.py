"""Secrets of rephrasing: the key is sent to the endpoint and appears nowhere else, even if the endpoint repeats it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rephrase_parts import LocalServer, completion, documents, failure, local_server

pytestmark = pytest.mark.slow

KEY, WEBHOOK, DATABASE = "sesame-1-key", "https://hooks.example.org/sesame-2-hook", "sesame-3-database"


def rephrase(folder: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    rows = folder / "in.jsonl"
    rows.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in documents(12)))
    return subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "finephrase_dagster.commands.main",
                "rephrase",
                "--input",
                str(rows),
                "--prompt",
                "faq",
            ),
            *("--output", str(folder / "out"), "--endpoint", endpoint, "--model", "tiny", "--json"),
        ],
        env={
            **os.environ,
            "FINEPHRASE_API_KEY": KEY,
            "FINEPHRASE_FAILURE_WEBHOOK": WEBHOOK,
            "PGPASSWORD": DATABASE,
            "FINEPHRASE_DATA": str(folder / "data"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def search(folder: Path, done: subprocess.CompletedProcess[str], *secrets: str) -> None:
    texts = {"the output": (done.stdout + done.stderr).encode()}
    texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, text in texts.items():
        for secret in secrets:
            assert secret.encode() not in text, name


@pytest.mark.parametrize("status", [200, 401])
def test_no_secret_is_printed_even_if_the_server_repeats_the_key(tmp_path: Path, status: int) -> None:
    with local_server() as server:

        def answer(request: dict[str, object]) -> object:
            if status == 200 and "Document 3." not in str(request["messages"]):
                return completion()
            return failure(400 if status == 200 else status, f"Authorization was Bearer {KEY}, which is odd")

        server.context = 4096
        server.answer = answer  # type: ignore[assignment]
        done = rephrase(tmp_path, server.url)
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert done.returncode == (1 if status == 401 else 0), done.stderr
    assert "Bearer ***" in done.stdout + done.stderr
    search(tmp_path, done, KEY, WEBHOOK, DATABASE)


def test_an_endpoint_url_with_a_password_is_refused_before_any_request(tmp_path: Path) -> None:
    with local_server() as server:
        done = rephrase(tmp_path, credentials(server))
        assert server.requests == []
    assert done.returncode == 2
    assert "error: --endpoint: an endpoint's URL has a user or a password in it" in done.stderr
    search(tmp_path, done, "sesame-4-url", KEY)


def credentials(server: LocalServer) -> str:
    return server.url.replace("http://", "http://ada:sesame-4-url@")
