"""The client: which endpoint gets a request, what is retried, and when a row or an endpoint is given up."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest

from finephrase_dagster.rephrase.client import Client, RequestResult, UnresolvedRow
from finephrase_dagster.rephrase.completion import Completion, FailedRow
from finephrase_dagster.rephrase.connection import Server
from finephrase_dagster.rephrase.engine import Endpoint, EngineFailed, EngineLike
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics
from rephrase_parts import Answer, LocalServer, completion, failure, local_server, raw_server, shorten_pauses


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        yield one


def ask(
    engines: Sequence[EngineLike],
    texts: Sequence[str],
    *,
    concurrency: int = 4,
    key: str | None = None,
    max_tokens: int = 8,
) -> dict[str, RequestResult]:
    """Send one request per text; return the results by text."""
    results: dict[str, RequestResult] = {}

    async def send(to: Client, waiting: list[str]) -> None:
        while waiting:
            text = waiting.pop(0)
            request = orjson.dumps({"messages": [{"role": "user", "content": text}]})
            results[text] = await to.complete(request)
            while isinstance(unresolved := results[text], UnresolvedRow):
                await to.prove(unresolved, earlier_request=lambda: None)
                results[text] = await to.complete(request, unresolved)

    async def all_of_them() -> None:
        waiting = list(texts)
        settings = ExecutionSettings(concurrency=concurrency, chunk_rows=1)
        async with (
            Client(engines, settings, RunStatistics(), max_tokens=max_tokens, key=key) as to,
            asyncio.TaskGroup() as senders,
        ):
            for _ in range(concurrency):
                senders.create_task(send(to, waiting))

    try:
        asyncio.run(all_of_them())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return results


def words(count: int) -> list[str]:
    return [f"word-{number}" for number in range(count)]


def text_of(request: dict[str, Any]) -> str:
    return request["messages"][-1]["content"]


def completed(results: dict[str, RequestResult]) -> set[str]:
    return {text for text, result in results.items() if isinstance(result, Completion)}


def test_requests_are_distributed_over_endpoints(server: LocalServer) -> None:
    with local_server() as other:
        for one in (server, other):
            one.answer = lambda request: time.sleep(0.02) or completion()
        assert completed(ask([server, other], words(40), concurrency=8)) == set(words(40))
        assert min(len(server.requests), len(other.requests)) >= 12


def test_a_dead_endpoint_gets_no_more_requests_and_no_row_is_lost(server: LocalServer) -> None:
    dead = Endpoint(url="http://127.0.0.1:9", model="tiny")
    assert completed(ask([dead, server], words(40))) == set(words(40))
    assert len(server.requests) == 40


@pytest.mark.parametrize("count", [1, 5, 60])
def test_no_row_is_lost_to_an_endpoint_that_only_returns_errors_while_another_answers(
    server: LocalServer, count: int
) -> None:
    with local_server() as broken:
        broken.answer = lambda request: failure(500, "broken")
        assert completed(ask([broken, server], words(count), concurrency=3)) == set(words(count))


def test_an_endpoint_that_recovers_gets_requests_again(server: LocalServer) -> None:
    with local_server() as other:
        other.answer = lambda request: failure(503, "loading") if len(other.requests) <= 6 else completion()
        server.answer = lambda request: time.sleep(0.02) or completion()
        assert completed(ask([server, other], words(80), concurrency=8)) == set(words(80))
        assert len(other.requests) > 12


def test_no_row_is_lost_to_an_outage_that_ends_in_time(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch, outage=10.0)
    began: list[float] = []

    def answer(request: dict[str, Any]) -> Answer | None:
        if len(server.requests) < 20:
            return completion()
        began.append(time.monotonic())
        return completion() if time.monotonic() - began[0] > 1 else None

    server.answer = answer
    server.alive = lambda: not began or time.monotonic() - began[0] > 1
    assert completed(ask([server], words(60), concurrency=8)) == set(words(60))


@pytest.mark.slow
def test_no_row_is_lost_to_a_server_that_limits_its_concurrency(server: LocalServer) -> None:
    lock, at_once = threading.Lock(), Counter[str]()

    def answer(request: dict[str, Any]) -> Answer:
        with lock:
            if at_once["now"] >= 5:
                return failure(429, "too many")
            at_once["now"] += 1
        time.sleep(0.03)
        with lock:
            at_once["now"] -= 1
        return completion()

    server.answer = answer
    assert completed(ask([server], words(150), concurrency=60)) == set(words(150))


@pytest.mark.slow
def test_the_limit_of_a_server_that_throttles_every_row_once_stays_high(server: LocalServer) -> None:
    seen: set[str] = set()
    lock, at_once = threading.Lock(), Counter[str]()

    def answer(request: dict[str, Any]) -> Answer:
        if text_of(request) not in seen:
            seen.add(text_of(request))
            return failure(429, "once")
        with lock:
            at_once["now"] += 1
            at_once["most"] = max(at_once["most"], at_once["now"])
        time.sleep(0.05)
        with lock:
            at_once["now"] -= 1
        return completion()

    server.answer = answer
    assert completed(ask([server], words(200), concurrency=32)) == set(words(200))
    assert at_once["most"] >= 16


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_names_when_it_is_back_is_not_asked_before(server: LocalServer, status: int) -> None:
    times: list[float] = []

    def answer(request: dict[str, Any]) -> Answer:
        times.append(time.monotonic())
        return completion() if len(times) > 1 else failure(status, "restarting")

    server.answer, server.retry_after = answer, "0.6"
    assert completed(ask([server], ["word"])) == {"word"}
    assert times[1] - times[0] >= 0.6


@pytest.mark.slow
def test_a_row_that_is_always_throttled_is_given_up(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch, throttled_row=0.5)
    server.answer = lambda request: failure(429, "slow down") if text_of(request) == "word-3" else completion()
    results = ask([server], words(400))
    assert not isinstance(results["word-3"], Completion)
    assert results["word-3"].reason.endswith("attempts: HTTP 429: slow down")
    assert len(completed(results)) == 399


def test_one_request_that_is_never_answered_does_not_block_the_run(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch, shortest_timeout=0.3)
    over = threading.Event()

    def answer(request: dict[str, Any]) -> Answer:
        if text_of(request) == "word-5":
            over.wait(20)
        return completion()

    server.answer = answer
    results = ask([server], words(20))
    over.set()
    assert not isinstance(results["word-5"], Completion)
    assert results["word-5"].reason.startswith("given up after 5 attempts: no answer within")
    assert len([request for request in server.requests if text_of(request) == "word-5"]) == 5
    assert len(completed(results)) == 19


def test_an_endpoint_that_never_answers_stops_the_run(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch, silence=0.2)
    shorten_pauses(monkeypatch, alive_timeout=0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineFailed, match=f"{url} answers nothing"):
            ask([Endpoint(url=url, model="tiny")], words(10))


def test_the_key_is_sent_and_a_wrong_one_stops_at_once(server: LocalServer) -> None:
    ask([server], words(1), key="secret-7")
    assert server.headers[-1]["Authorization"] == "Bearer secret-7"
    server.answer = lambda request: failure(401, "no such key")
    with pytest.raises(EngineFailed, match=r"HTTP 401: no such key.*FINEPHRASE_API_KEY"):
        ask([server], words(5), key="secret-7", concurrency=1)


@pytest.mark.parametrize("url", ["ftp://host", "127.0.0.1:8000", "http://", "http://h/v1?api_key=abc", "http://h#abc"])
def test_an_endpoint_that_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write http://HOST:PORT") as refused:
        Server(url)
    assert "abc" not in str(refused.value)


def test_a_url_may_end_with_the_version_of_the_api() -> None:
    assert Server("http://host:8000/v1/").url == Server("http://host:8000").url == "http://host:8000"


def test_a_key_cannot_add_a_header() -> None:
    with pytest.raises(ValueError, match="FINEPHRASE_API_KEY"):
        Server("http://host", "a\r\nX: y")


ANSWER = orjson.dumps(completion("Whole.")[1])


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(ANSWER), ANSWER),
        b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER),
        b"HTTP/1.0 200 OK\r\n\r\n" + ANSWER,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (ANSWER[:5], len(ANSWER) - 5, ANSWER[5:]),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER),
    ],
    ids=["closes", "http-1.0", "ends-with-connection", "chunked", "interim"],
)
def test_every_way_to_end_a_response_is_understood(reply: bytes) -> None:
    with raw_server(reply) as url:
        results = ask([Endpoint(url=url, model="tiny")], words(6), concurrency=2)
    assert [result.text for result in results.values() if isinstance(result, Completion)] == ["Whole."] * 6


@pytest.mark.parametrize(
    ("location", "part"),
    [
        (
            "https://other.org:8443/api/v1/chat/completions",
            "to https://other.org:8443/api/v1/chat/completions (HTTP 302)",
        ),
        ("https://other.org/v1/chat/completions", "use https://other.org as the endpoint"),
        ("/login?next=%2Fv1", "/login (HTTP 302)"),
        ("/v1/chat/completions", "correct the endpoint's URL"),
        ("http://[odd", "to no address"),
        ("", "to no address"),
        ("/\u202e" + 3000 * "x", "xxx (HTTP 302)"),
    ],
)
def test_a_redirect_of_requests_stops_the_run_and_says_where_it_leads(location: str, part: str) -> None:
    reply = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    with raw_server(reply) as url, pytest.raises(EngineFailed) as raised:
        ask([Endpoint(url=url, model="tiny")], words(1))
    message = str(raised.value)
    assert message.startswith(f"{url} redirects /v1/chat/completions to ")
    assert part in message
    assert len(message) < 600
    assert message.isprintable()


MORTAL = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "deadly" in asked:
            os._exit(9)
        body = json.dumps({"choices": [{"message": {"content": "Alive."}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


class Mortal:
    """An engine of ours, a real process, that dies of a deadly request."""

    model = "tiny"
    restartable = True

    def __init__(self) -> None:
        self.starts = 0
        self.restart()

    def restart(self) -> None:
        self.starts += 1
        self._process = subprocess.Popen([sys.executable, "-c", MORTAL], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"

    def check(self) -> None:
        if self._process.poll() is not None:
            raise EngineFailed("it has ended")

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    one = Mortal()
    yield one
    one.stop()


@pytest.mark.slow
def test_a_document_that_kills_the_engine_fails_and_no_other_is_lost(mortal: Mortal) -> None:
    texts = [*words(30)[:15], "deadly", *words(30)[15:]]
    results = ask([mortal], texts, concurrency=8)
    assert completed(results) == set(words(30))
    deadly = results["deadly"]
    assert isinstance(deadly, FailedRow)
    assert deadly.reason.startswith("the engine died 3 times while it served this row")
    assert mortal.starts == 4


def test_an_engine_that_cannot_be_restarted_stops_the_run(mortal: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise EngineFailed("no memory left")

    monkeypatch.setattr(mortal, "restart", fail)
    with pytest.raises(EngineFailed, match="no memory left"):
        ask([mortal], ["deadly", *words(4)], concurrency=2)
