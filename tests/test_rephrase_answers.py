"""Answers of servers: whatever a server sends is a completion or one short, printable reason."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.rephrase.completion import (
    FINISH_REASONS,
    REASON_CHARACTERS,
    Completion,
    FailedRow,
    NotACompletion,
    read_completion,
    read_error,
    readable,
)
from finephrase_dagster.rephrase.connection import Connection, ConnectionBroken, Response, fetch, seconds_of
from finephrase_dagster.study.paths import REPOSITORY
from rephrase_parts import raw_server

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {}, optional={"content": JSON, "refusal": JSON, "reasoning": JSON, "tool_calls": JSON, "role": JSON}
)
CHOICES = st.fixed_dictionaries(
    {}, optional={"message": MESSAGES | JSON, "finish_reason": st.sampled_from([*FINISH_REASONS]) | JSON}
)
BODIES = st.fixed_dictionaries(
    {}, optional={"choices": st.lists(CHOICES | JSON, max_size=2) | JSON, "usage": JSON, "error": JSON, "detail": JSON}
)


def body(content: Any = "Some words.", finish_reason: Any = "stop", **message: Any) -> bytes:
    choice = {"message": {"content": content, **message}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()


def is_short(reason: str) -> bool:
    return bool(reason) and reason.isprintable() and len(reason) <= REASON_CHARACTERS


@given(st.binary(max_size=200) | (BODIES | JSON).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_completion_or_a_reason(sent: bytes) -> None:
    assert is_short(read_error(sent))
    try:
        result = read_completion(sent)
    except NotACompletion as error:
        assert is_short(readable(str(error)))
        return
    if isinstance(result, Completion):
        assert any(letter.isprintable() for letter in result.text.strip())
        result.text.encode()
        assert is_short(result.finish_reason)
    else:
        assert is_short(readable(result.reason))


@given(st.text() | st.from_regex(r"(\x1b\[[0-9;]{0,3}[A-Za-z]|\x1b\]0;title\x07|\x07|\r\n|word ){0,9}", fullmatch=True))
def test_a_reason_is_one_short_printable_line(text: str) -> None:
    reason = readable(text)
    assert len(reason) <= REASON_CHARACTERS
    assert reason.isprintable()


def test_a_reason_keeps_the_words_and_drops_what_acts_on_a_terminal() -> None:
    assert readable("\x1b[1;31mno \x1b]8;;http://x\x1b\\memory\x1b[0m\r\n\tleft\u202e") == "no memory left"
    assert len(read_error(json.dumps({"error": {"message": "m" * 10**6}}).encode())) == REASON_CHARACTERS
    assert read_error(b"\xff\xfe" * 10**6) == "2,000,000 bytes of binary data"


@pytest.mark.parametrize(("name", "meaning"), FINISH_REASONS.items())
def test_each_finish_reason_has_its_outcome_and_is_documented(name: str, meaning: Any) -> None:
    documentation = (REPOSITORY / "docs" / "rephrasing.md").read_text(encoding="utf-8")
    row = next(line for line in documentation.splitlines() if f"`{name}`" in line and meaning.outcome in line)
    assert meaning.meaning in row
    if meaning.outcome == "retried":
        with pytest.raises(NotACompletion, match=meaning.meaning):
            read_completion(body(finish_reason=name))
        return
    for spelling in (name, name.upper()):
        result = read_completion(body(finish_reason=spelling))
        assert isinstance(result, Completion) == (meaning.outcome == "completed")
    if isinstance(result, Completion):
        assert result.finish_reason == meaning.name or name == "unknown"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (body(None, "length", reasoning="Let me see"), "the model spent max_tokens on reasoning. Raise --max-tokens"),
        (body("", "length"), "the completion has no text, but used up max_tokens"),
        (body(" \n", "stop"), "the completion has no text"),
        (body(None, "stop", reasoning_content="Let me see"), "the completion has no text, only reasoning"),
        (body("\0", "stop"), "the completion has no text"),
        (body("\u200b\ufeff \n", "stop"), "the completion has no text"),
        (
            body(None, "stop", tool_calls=[{"id": "a"}]),
            "the model called a tool instead of writing text; start the server without tools",
        ),
        (body(None, "stop", refusal="Not this."), "the model refused to answer: Not this."),
        (body("As asked, the", "stop", refusal="Not this."), "the model refused to answer: Not this."),
        (body("Half a", "wizardry"), "finish_reason wizardry: it is not known whether the text is complete"),
    ],
)
def test_an_answer_without_a_usable_text_fails_with_its_reason(sent: bytes, reason: str) -> None:
    result = read_completion(sent)
    assert isinstance(result, FailedRow)
    assert result.reason.endswith(reason)


def test_a_text_that_comes_with_an_error_is_not_complete() -> None:
    sent = json.loads(body("Half of it")) | {"error": {"message": "out of memory", "code": 500}}
    with pytest.raises(NotACompletion, match="out of memory"):
        read_completion(json.dumps(sent).encode())


def test_text_parts_are_joined_and_lone_surrogates_are_replaced() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "One "}, {"type": "text", "text": "two."}]
    assert read_completion(body(parts)).text == "One two."  # type: ignore[union-attr]
    assert read_completion(body("half \ud83d pair")).text == "half \ufffd pair"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"8", 8.0),
        (b" 2.5 ", 2.5),
        (b"0", None),
        (b"-3", None),
        (b"nan", None),
        (b"inf", None),
        (b"soon", None),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", None),
        (b"Wed, 99 Oct 2015 07:28:00 GMT", None),
        (b"\xff", None),
    ],
)
def test_retry_after_is_read_as_a_number(sent: bytes, seconds: float | None) -> None:
    assert seconds_of(sent) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    seconds = seconds_of(formatdate(time.time() + 30, usegmt=True).encode())
    assert seconds is not None
    assert 28 < seconds <= 30


@given(st.binary(max_size=40))
@pytest.mark.slow
def test_any_retry_after_is_a_positive_number_or_nothing(sent: bytes) -> None:
    seconds = seconds_of(sent)
    assert seconds is None or 0 < seconds < float("inf")


def reply(sent: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(sent)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent


def answer_of(sent: bytes) -> Response:
    with raw_server(sent, end=b"\r\n\r\n") as url:
        return fetch(f"{url}/some/page?x=1", 5)


def test_a_body_that_is_compressed_unasked_is_read() -> None:
    assert answer_of(reply(gzip.compress(b"words"), "Content-Encoding: gzip")).body == b"words"
    assert answer_of(reply(gzip.compress(b"words"), "Content-Encoding: X-GZip")).body == b"words"
    assert answer_of(reply(b"no gzip", "Content-Encoding: gzip")).body == b"no gzip"
    assert answer_of(reply(b"words", "Content-Encoding: identity")).body == b"words"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "\x1b[2Jodd"])
def test_an_encoding_that_is_not_read_is_named(encoding: str) -> None:
    answer = "the server compressed its answer|Invalid header"
    with pytest.raises(OSError, match=answer) as raised:
        answer_of(reply(b"\x0b\x02\x80", f"Content-Encoding: {encoding}"))
    assert str(raised.value).isprintable()


def test_a_response_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finephrase_dagster.rephrase.connection.MOST_BYTES", 10_000)
    bomb = gzip.compress(bytes(10**6))
    assert len(answer_of(reply(bomb, "Content-Encoding: gzip")).body) == 10_000
    with pytest.raises(OSError, match="the response has more than"):
        answer_of(reply(bytes(20_000)))


class _Transport(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send nothing."""

    def close(self) -> None:
        """Close nothing."""

    abort = close


SENT = reply(body()) + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@given(st.binary(max_size=60), st.integers(0, len(SENT)), st.integers(0, len(SENT)), st.integers(1, 40))
def test_any_bytes_on_a_connection_end_its_request(odd: bytes, start: int, end: int, piece: int) -> None:
    sent = SENT[:start] + odd + SENT[end:]

    async def exchange() -> Response | ConnectionBroken:
        connection = Connection()
        connection.connection_made(_Transport())
        pending = connection.exchange(b"")
        for place in range(0, len(sent), piece):
            if connection.usable:
                connection.data_received(sent[place : place + piece])
        connection.connection_lost(None)
        assert pending.done()
        return pending.exception() or pending.result()  # type: ignore[return-value]

    assert isinstance(asyncio.run(exchange()), Response | ConnectionBroken)


def test_no_secret_is_read_from_a_url(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="user or a password"):
        fetch("http://ada:sesame@127.0.0.1:9/x", 1)
