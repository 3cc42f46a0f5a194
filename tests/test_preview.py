"""`finephrase preview` shows a few documents with their completions, and writes no dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from finephrase_dagster.commands.main import app
from rephrase_parts import Answer, LocalServer, completion, failure, local_server

FAQ = "Q: What is a harbour?\nA: A place for ships.\n\nQ: Who uses it?\nA: Sailors and merchants do.\n"


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        yield one


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    texts = ["The harbour is full.", "<b>Bold</b> \x1b[31mwords.", "class Red:\n\tRED = 1  # it", "It rains."]
    lines = [json.dumps({"id": f"doc-{n}", "text": text}) for n, text in enumerate(texts)]
    path.write_text("\n".join([*lines, json.dumps({"id": "none", "text": None})]), encoding="utf-8")
    return path


def run(rows: Path, server: LocalServer, *more: str) -> Result:
    base = ["preview", "--input", str(rows), "--endpoint", server.url, "--model", "tiny", "--max-tokens", "64"]
    return CliRunner().invoke(app, [*base, *more])


def test_a_preview_judges_the_form_and_counts_the_tokens(rows: Path, server: LocalServer, tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> Answer:
        text = request["messages"][-1]["content"]
        return completion(FAQ if "harbour" in text else "No questions here.")

    server.answer = answer
    before = sorted(tmp_path.rglob("*"))
    result = run(rows, server, "--prompt", "faq", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert [row["passed"] for row in shown["rows"]] == [True, False, False]
    assert [row["id"] for row in shown["rows"]] == ["doc-0", "doc-1", "doc-2"]
    assert shown["rows"][0]["text"] == FAQ.strip()
    assert shown["rows"][0]["flaw"] is None
    assert shown["prompts"]["faq"]["form"] == pytest.approx(1 / 3)
    assert shown["prompts"]["faq"]["per_million_documents"]["completion_tokens"] == 3_000_000
    assert shown["prompts"]["faq"]["per_million_documents"]["dollars"] is None
    assert shown["settings"]["max_tokens"] == 64
    assert sorted(tmp_path.rglob("*")) == before


def test_the_terminal_shows_texts_without_their_control_characters(rows: Path, server: LocalServer) -> None:
    server.answer = lambda request: completion(FAQ)
    result = run(rows, server, "--prompt", "faq,table", "--limit", "3")
    assert result.exit_code == 0, result.output
    assert "The harbour is full." in result.stdout
    assert "\x1b" not in result.stdout
    assert "     RED = 1  # it" in result.stdout
    assert "faq, 3 tokens: has its form" in result.stdout
    assert "table, 3 tokens: " in result.stdout
    assert "A: A place for ships." in [line[61:].strip() for line in result.stdout.splitlines()]


def test_the_page_shows_markup_as_text_and_needs_no_network(rows: Path, server: LocalServer, tmp_path: Path) -> None:
    server.answer = lambda request: completion("<script>alert(1)</script>")
    page = tmp_path / "page.html"
    assert run(rows, server, "--prompt", "faq", "--html", str(page)).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;b&gt;Bold&lt;/b&gt;" in text
    assert "http" not in text


def test_a_document_without_text_has_its_reason(rows: Path, server: LocalServer) -> None:
    shown = json.loads(run(rows, server, "--prompt", "faq", "--limit", "5", "--json").stdout)
    last = shown["rows"][-1]
    assert (last["id"], last["text"], last["passed"]) == ("none", None, False)
    assert last["flaw"].startswith("skipped: ")


def test_a_prompt_may_be_a_file(rows: Path, server: LocalServer, tmp_path: Path) -> None:
    prompt = tmp_path / "glossary.md"
    prompt.write_text("---\nname: glossary\n---\n[[DOCUMENT]]\n\nExplain the rare words.", encoding="utf-8")
    shown = json.loads(run(rows, server, "--prompt", str(prompt), "--json").stdout)
    assert list(shown["prompts"]) == ["glossary"]
    assert server.asked("Explain the rare words.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "nothing"], "prompt 'nothing': no such file"),
        (["--prompt", "./missing.md"], "missing.md; correct the path"),
        (["--prompt", "faq", "--html", "/no/such/page.html"], "--html /no/such/page.html: no folder /no/such; create"),
        (["--prompt", "faq", "--text-column", "body"], "no row has a field 'body'; its fields are id, text. Name it"),
        (["--prompt", "faq", "--limit", "0"], "--limit"),
        (["--prompt", "faq", "--source", "package_readmes"], "--input and --source exclude each other"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    options: list[str], message: str, rows: Path, server: LocalServer
) -> None:
    result = run(rows, server, *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not server.requests


def test_an_unknown_source_is_refused_with_the_known_ones(server: LocalServer) -> None:
    arguments = ["preview", "--source", "nowhere", "--endpoint", server.url, "--model", "tiny", "--prompt", "faq"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "there is no 'nowhere'; known: package_readmes, language_reference" in result.stderr


def test_a_server_that_refuses_everything_fails_the_preview(rows: Path, server: LocalServer) -> None:
    server.answer = lambda request: failure(400, "no such parameter")
    result = run(rows, server, "--prompt", "faq")
    assert result.exit_code == 1
    assert "no such parameter" in result.stderr
