"""Documents without a tokenizer: they are cut by the endpoint's own count of tokens, else by bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.rephrase.dataset import RecipeChanged
from finephrase_dagster.rephrase.documents import rephrase_documents
from finephrase_dagster.rephrase.engine import EngineFailed
from finephrase_dagster.rephrase.render import CountedRenderer, Message
from rephrase_parts import PROMPTS, LocalServer, completion, failure, local_server, shorten_pauses

CONTEXT, MAX_TOKENS = 1500, 50
LONG = "A sentence of some seven words or so. " * 60  # 2,280 bytes, 480 words
HUGE = LONG * 20


def words(text: str) -> int:
    return len(text.split()) + 5


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    shorten_pauses(monkeypatch)
    with local_server() as one:
        one.context = CONTEXT
        one.count = words
        yield one


def rephrase(server: LocalServer, output: Path, *texts: str, **options: Any) -> Any:
    options = {"model": "tiny", "max_tokens": MAX_TOKENS, "log": None, **options}
    return rephrase_documents(list(texts), prompt="faq", endpoint=server.url, output=output, **options)


def cut(dataset: Any) -> list[bool]:
    return [row["document_cut"] for row in sorted(dataset.rows, key=lambda row: row["id"])]


def test_an_endpoint_counts_the_documents_that_may_not_fit(tmp_path: Path, server: LocalServer) -> None:
    dataset = rephrase(server, tmp_path, "Short.", LONG, HUGE)
    assert cut(dataset) == [False, False, True]
    assert dataset.manifest["documents_cut"] == 1
    assert dataset.manifest["recipe"]["truncation"] == "document end, by tokens that the endpoint counts"
    sizes = [words(request["messages"][-1]["content"]) for request in server.requests]
    assert 0.98 * (CONTEXT - MAX_TOKENS) <= max(sizes) <= CONTEXT - MAX_TOKENS
    assert len(server.counted) <= 10
    assert not any("Short." in text for text in server.counted)


def test_an_endpoint_is_not_asked_if_all_documents_fit(tmp_path: Path, server: LocalServer) -> None:
    dataset = rephrase(server, tmp_path, "Short.", "Also short.")
    assert server.counted == []
    assert dataset.manifest["recipe"]["truncation"] == "document end, by UTF-8 bytes"


def test_without_tokenize_documents_are_cut_by_bytes_and_the_log_names_the_remedy(
    tmp_path: Path, server: LocalServer
) -> None:
    server.count = None
    lines: list[str] = []
    dataset = rephrase(server, tmp_path, "Short.", LONG, log=lines.append)
    assert cut(dataset) == [False, True]
    assert len(server.counted) == 1
    assert any("--tokenizer NAME|DIR cuts them by tokens" in line for line in lines)


@pytest.mark.slow
def test_how_documents_are_cut_is_decided_once(tmp_path: Path, server: LocalServer) -> None:
    server.answer = lambda request: completion() if len(server.requests) < 2 else failure(401, "expired")
    with pytest.raises(EngineFailed):
        rephrase(server, tmp_path, "Short.", LONG, HUGE, concurrency=1)
    count, server.count = server.count, None
    server.answer = lambda request: completion()
    with pytest.raises(EngineFailed, match=r"answers nothing \(/tokenize: no number of tokens: Not Found\)"):
        rephrase(server, tmp_path, "Short.", LONG, HUGE)
    server.count = count
    assert cut(rephrase(server, tmp_path, "Short.", LONG, HUGE)) == [False, False, True]
    server.count = None
    assert len(rephrase(server, tmp_path, "Short.", LONG, HUGE)) == 3, "a complete dataset needs no count"
    with pytest.raises(RecipeChanged, match="max_tokens"):
        rephrase(server, tmp_path, "Short.", LONG, HUGE, max_tokens=51)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=40),
    st.integers(1, 30),
    st.integers(200, 4000),
)
def test_a_counted_document_fits_and_loses_no_more_than_it_must(lengths: list[int], times: int, room: int) -> None:
    document = " ".join("x" * length for length in lengths * times)
    renderer = CountedRenderer(prompts={"plain": PROMPTS["plain"]}, context=room + 200, max_tokens=10)
    limit = room + 190

    async def count(asked: list[Message]) -> int:
        return words(asked[-1]["content"])

    rendered = asyncio.run(renderer.fit("plain", document, count))
    tokens = asyncio.run(count(rendered.messages))
    assert tokens <= limit
    assert rendered.document_cut == (document not in rendered.messages[-1]["content"])
    if rendered.document_cut:
        assert tokens >= 0.8 * limit
