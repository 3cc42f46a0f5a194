"""Endpoints: their states, the limits learned from their answers, and the numbers that the documentation states."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

import pytest

from finephrase_dagster.rephrase.connection import Server
from finephrase_dagster.rephrase.counters import parse_counters, read_counters
from finephrase_dagster.rephrase.endpoint import EndpointClient, EndpointState
from finephrase_dagster.rephrase.limit import ConcurrencyLimit, TimeLimit
from finephrase_dagster.rephrase.model_list import ContextUnknown, read_context
from finephrase_dagster.rephrase.policy import RetryPolicy
from finephrase_dagster.study.paths import REPOSITORY
from rephrase_parts import LocalServer, local_server

POLICY = RetryPolicy(first_pause=0.0, longest_pause=0.0)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        yield one


@pytest.fixture
def endpoint(server: LocalServer) -> EndpointClient:
    return EndpointClient(server, POLICY, key=None, concurrency=4)


def fail(endpoint: EndpointClient, times: int) -> None:
    for _ in range(times):
        endpoint.record_failure(time.monotonic(), "connection closed")


def check(endpoint: EndpointClient, *, others_up: bool) -> bool:
    return asyncio.run(endpoint.check(others_up=others_up))


def test_an_endpoint_is_down_after_three_consecutive_requests_without_an_answer(endpoint: EndpointClient) -> None:
    fail(endpoint, 2)
    endpoint.record_answer()
    fail(endpoint, 2)
    assert endpoint.state is EndpointState.UP
    fail(endpoint, 1)
    assert endpoint.state is EndpointState.DOWN
    assert not endpoint.is_ready(time.monotonic())
    assert endpoint.needs_check(time.monotonic())


def test_an_endpoint_that_is_alive_is_up_again_if_it_is_the_only_one(endpoint: EndpointClient) -> None:
    fail(endpoint, 3)
    assert check(endpoint, others_up=False)
    assert endpoint.state is EndpointState.UP


def test_an_endpoint_that_is_alive_is_on_trial_while_another_is_up(endpoint: EndpointClient) -> None:
    fail(endpoint, 3)
    assert check(endpoint, others_up=True)
    assert endpoint.state is EndpointState.TRIAL
    assert endpoint.is_ready(time.monotonic())
    endpoint.in_flight = 1
    assert not endpoint.is_ready(time.monotonic()), "one request at a time"
    fail(endpoint, 1)
    assert endpoint.state is EndpointState.DOWN
    check(endpoint, others_up=True)
    endpoint.record_answer()
    assert endpoint.state is EndpointState.UP


def test_an_endpoint_that_is_not_alive_stays_down(server: LocalServer, endpoint: EndpointClient) -> None:
    server.alive = lambda: False
    fail(endpoint, 3)
    assert not check(endpoint, others_up=False)
    assert endpoint.state is EndpointState.DOWN


def test_an_endpoint_that_asked_for_a_pause_and_then_breaks_off_is_checked_during_the_pause(
    endpoint: EndpointClient,
) -> None:
    for _ in range(9):
        endpoint.record_throttled(time.monotonic(), retry_after=3600.0)
    fail(endpoint, 3)
    assert endpoint.needs_check(time.monotonic()), "otherwise its silence would end the run before the pause does"
    assert check(endpoint, others_up=False)
    assert endpoint.state is EndpointState.UP
    assert not endpoint.is_ready(time.monotonic() + POLICY.retry_after_endpoint - 1)
    assert endpoint.is_ready(time.monotonic() + POLICY.retry_after_endpoint)


def test_an_answer_that_arrives_during_a_check_counts_more_than_the_check(
    server: LocalServer, endpoint: EndpointClient
) -> None:
    def answered_meanwhile() -> bool:
        endpoint.record_answer()
        return False

    server.alive = answered_meanwhile
    fail(endpoint, 3)
    check(endpoint, others_up=True)
    assert endpoint.state is EndpointState.UP


def test_a_restarted_engine_is_up(endpoint: EndpointClient) -> None:
    fail(endpoint, 3)
    before = time.monotonic()
    endpoint.record_restart()
    assert endpoint.state is EndpointState.UP
    assert endpoint.restarted_at >= before


def test_the_limit_falls_to_what_is_served_and_grows_again() -> None:
    limit = ConcurrencyLimit(64, RetryPolicy())
    for _ in range(8):
        limit.record_throttled(1.0, in_flight=10)
    assert limit.value == 10
    for _ in range(200):
        limit.record_answer()
    assert limit.value == 64


def test_the_limit_is_restored_if_requests_are_throttled_one_at_a_time() -> None:
    limit = ConcurrencyLimit(64, RetryPolicy())
    for _ in range(8):
        limit.record_throttled(1.0, in_flight=1)
    for _ in range(5):
        limit.record_throttled(1.0, in_flight=0)
    assert limit.value == 64


def test_the_time_limit_follows_the_pace_within_its_bounds() -> None:
    limit = TimeLimit(1000, RetryPolicy())
    assert (limit.seconds, limit.is_known) == (310, False)
    assert TimeLimit(100_000, RetryPolicy()).seconds == 600
    limit.record_completion(1.0, tokens=100, characters=0)
    assert math.isclose(limit.seconds, 30.0)
    for _ in range(500):
        limit.record_completion(0.001, tokens=0, characters=400)
    assert limit.seconds == 10


def test_a_proxy_of_the_environment_is_not_used(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert asyncio.run(Server(server.url, "key").fetch("/v1/models", 5)).status == 200
    server.restartable = True
    assert read_counters([server]) == {}


def test_the_counters_of_vllm_are_read_from_its_metrics_page() -> None:
    page = """# HELP vllm:prefix_cache_hits Prefix cache hits.
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{engine="0",model_name="a \\"b\\""} 12.0
vllm:prefix_cache_hits_total{engine="1",model_name="a"} 3.0
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{engine="0"} 1e+02
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running 3.0
"""
    assert parse_counters(page) == {"prefix_hits": 15, "prefix_queries": 100}


def test_the_documentation_states_the_numbers_of_the_retry_policy() -> None:
    text = " ".join((REPOSITORY / "docs" / "rephrasing.md").read_text(encoding="utf-8").split())
    policy = RetryPolicy()
    starts = [f"{start:g}" for start in policy.attempt_starts[1:]]
    pauses = [f"{pause:g}" for pause in policy.throttled_pauses]
    for sentence in (
        f"{', '.join(starts[:-1])} and {starts[-1]} s after the first attempt",
        f"no answer in {len(policy.attempt_starts)} attempts",
        f"after {', '.join(pauses)}, {pauses[-1]} ... s, or Retry-After up to {policy.retry_after_row:g} s",
        f"{len(policy.attempt_starts)} attempts and {policy.throttled_row:g} s, the last attempt proven",
        f"nothing is completed for {policy.outage:g} s (for {policy.throttled_outage:g} s if the answer is HTTP 429)",
        f"If nothing is answered for {policy.notice:g} s, and then",
        f"the engine died {policy.deaths_per_row} times",
        f"at least {policy.max_unresolved}",
        f"An attempt of more than {policy.slow_attempt:g} s counts as two",
        f"{policy.first_answer:g} s and another second per {policy.slowest_pace:g} tokens of `max_tokens`",
        f"between {policy.shortest_timeout:g} s and {policy.longest_timeout:g} s",
        f"{policy.failures_until_down} requests in a row without an answer",
        f"all endpoints down for {policy.outage:g} s (for {policy.outage_at_start:g} s if there has been no answer",
        f"more than {policy.throttled_share:.0%}".replace("%", " %"),
        f"fewer than {policy.recovered_share:.0%}".replace("%", " %"),
        f"it grows by {policy.limit_growth - 1:.0%}".replace("%", " %"),
        f"pauses it for up to {policy.retry_after_endpoint:g} s",
        f"If nothing is answered for {policy.silence:g} s",
    ):
        assert sentence in text, sentence


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_named_and_not_followed_with_the_key(status: int) -> None:
    with local_server() as elsewhere, local_server() as server:
        server.redirect = status, f"{elsewhere.url.replace('//', '//user:word@')}/v1/models?token=word"
        with pytest.raises(
            ContextUnknown,
            match=rf"{server.url} redirects /v1/models to {elsewhere.url}/v1/models \(HTTP {status}\).*"
            rf"use {elsewhere.url} as the endpoint",
        ) as raised:
            read_context([Server(server.url, "secret")], "tiny")
        assert "word" not in str(raised.value)
        assert elsewhere.headers == []
