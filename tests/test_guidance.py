"""Guided requests to endpoints: one that refuses grammars or ignores them gets no document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.rephrase.guidance import WORD, GuidanceUnsupported
from finephrase_dagster.rephrase.job import build_job, execute
from rephrase_parts import Answer, LocalServer, completion, failure, local_server


def rephrase(tmp_path: Path, server: LocalServer, **options: Any) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "text": "A text."}))
    arguments = {"prompts": ["faq"], "endpoints": [server.url], "model": "tiny", "context": 4096, "guided": True}
    execute(build_job([str(tmp_path / "in.jsonl")], output=str(tmp_path / "out"), **{**arguments, **options}))


def follows(request: dict[str, Any]) -> Answer:
    grammar = request["structured_outputs"]["grammar"]
    return completion(WORD if WORD in grammar else "Q: One?\nA: Yes.\n\nQ: Two?\nA: No.")


def test_an_endpoint_that_follows_a_grammar_gets_it_with_every_document(tmp_path: Path) -> None:
    with local_server() as server:
        server.answer = follows
        rephrase(tmp_path, server)
    probe, request = server.requests
    assert WORD in probe["structured_outputs"]["grammar"]
    assert "root ::= pair" in request["structured_outputs"]["grammar"]
    assert "A text." not in str(probe)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda request: completion("Hello!"), "ignores grammars: it answers a request that has one freely"),
        (
            lambda request: failure(400, "unknown field structured_outputs"),
            "refuses grammars: HTTP 400, .*unknown field",
        ),
    ],
)
def test_an_endpoint_without_grammars_is_refused_before_a_document_is_sent(
    tmp_path: Path, answer: Any, reason: str
) -> None:
    with local_server() as server, pytest.raises(GuidanceUnsupported, match=reason) as refusal:
        server.answer = answer
        rephrase(tmp_path, server)
    assert refusal.value.exit_status == 2
    assert "rephrase without guidance (--free" in str(refusal.value)
    assert len(server.requests) == 1


def test_a_free_run_sends_no_grammar_and_no_probe(tmp_path: Path) -> None:
    with local_server() as server:
        server.answer = lambda request: completion("Hello!")
        rephrase(tmp_path, server, guided=None)
    (request,) = server.requests
    assert "structured_outputs" not in request
