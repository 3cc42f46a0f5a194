"""Metrics: their values agree with the manifest; where they are served, and how they are named."""

from __future__ import annotations

import contextlib
import re
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from finephrase_dagster.rephrase.engine import EngineFailed
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.rephrase.metrics import MetricsPortInUse, MetricsPortWrong, RunMetrics, ports_of, serve_metrics
from finephrase_dagster.study.paths import REPOSITORY
from rephrase_parts import (
    PROMPTS,
    LocalServer,
    completion,
    documents,
    failure,
    generator,
    local_server,
    recipe,
    shorten_pauses,
    write_corpus,
)

RULES = REPOSITORY / "deploy" / "alerts" / "finephrase.rules.yaml"
Samples = dict[tuple[str, str], float]


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        yield one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def two_free_ports() -> int:
    """Return the first of two consecutive free ports."""
    while True:
        first = free_port()
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.bind(("127.0.0.1", first + 1))
            return first


def scrape(port: int) -> Samples:
    """Return all samples by name and label `reason`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    return {
        (sample.name, sample.labels.get("reason", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def run(corpus: Path, root: Path, server: LocalServer, port: int) -> tuple[Samples, list[dict[str, int]]]:
    """Rephrase a corpus; return the samples after the last file was written, and the manifests."""
    spec = generator(context=4096, max_tokens=64)
    with serve_metrics(str(port), model="tiny", log=lambda line: None) as watch:
        job = RephraseJob(
            files=tuple(str(shard) for shard in sorted(corpus.glob("*.parquet"))),
            prompts=PROMPTS,
            targets={name: Target(folder=str(root / name), recipe=recipe(name, spec)) for name in PROMPTS},
            model="tiny",
            endpoints=(server.url,),
            concurrency=8,
            chunk_rows=4,
        )
        manifests = execute(job, watch=watch)
        return scrape(port), list(manifests.values())


def added(manifests: list[dict[str, int]], name: str) -> int:
    return sum(manifest[name] for manifest in manifests)


@pytest.mark.slow
def test_the_metrics_agree_exactly_with_the_manifests(
    tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch)
    corpus = write_corpus(tmp_path / "corpus", [[*documents(30), ("none", None)], documents(10, start=30)])
    tries: Counter[str] = Counter()

    def answer(request: dict[str, object]) -> object:
        words = str(request["messages"])
        tries[words] += 1
        if "Document 5." in words:
            return failure(400, "too dull")
        if "Document 7." in words and tries[words] < 3:
            return failure(500, "once more")
        if "Document 9." in words and tries[words] < 2:
            return failure(429, "later")
        return completion()

    server.answer = answer  # type: ignore[assignment]
    samples, manifests = run(corpus, tmp_path / "out", server, free_port())
    assert samples["finephrase_requests_completed_total", ""] == added(manifests, "completed") == 78
    assert samples["finephrase_requests_failed_total", "http_400"] == added(manifests, "failed") == 2
    assert samples["finephrase_rows_skipped_total", ""] == added(manifests, "skipped") == 2
    assert samples["finephrase_rows_done", ""] == added(manifests, "rows_in") == 82
    assert samples["finephrase_prompt_tokens_total", ""] == added(manifests, "prompt_tokens") == 78 * 11
    assert samples["finephrase_completion_tokens_total", ""] == added(manifests, "completion_tokens") == 78 * 3
    assert samples["finephrase_requests_repeated_total", "unanswered"] == 4
    assert samples["finephrase_requests_repeated_total", "throttled"] == 2
    assert samples["finephrase_requests_sent_total", ""] == len(server.requests) == 86
    assert samples["finephrase_chunks_written_total", ""] == 2 * (8 + 3)
    assert samples["finephrase_rows_left", ""] == samples["finephrase_requests_in_flight", ""] == 0
    assert samples["finephrase_engine_busy_seconds_total", ""] > 0


@pytest.mark.slow
def test_a_resumed_run_counts_its_own_work_apart_from_earlier_runs(
    tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch)
    corpus = write_corpus(tmp_path / "corpus", [documents(40)])
    server.answer = lambda request: completion() if len(server.requests) <= 30 else failure(401, "no more")
    with pytest.raises(EngineFailed):
        run(corpus, tmp_path / "out", server, free_port())
    server.answer = lambda request: completion()
    samples, manifests = run(corpus, tmp_path / "out", server, free_port())
    assert 0 < samples["finephrase_rows_done_before", ""] <= 30
    assert samples["finephrase_rows_done_before", ""] + samples["finephrase_requests_completed_total", ""] == 80
    assert samples["finephrase_rows_done", ""] == added(manifests, "completed") == 80


def test_two_runs_take_two_ports_of_a_range_and_a_third_is_refused_with_advice() -> None:
    first = two_free_ports()
    lines: list[str] = []
    with serve_metrics(f"{first}-{first + 1}", model="a", log=lines.append) as watch_a:
        with serve_metrics(f"{first}-{first + 1}", model="b", log=lines.append):
            assert lines == [f"metrics: http://127.0.0.1:{port}/metrics" for port in (first, first + 1)]
            watch_a.__self__._statistics.prompts["faq"].completed = 3  # type: ignore[attr-defined]
            pages = [scrape(port)["finephrase_requests_completed_total", ""] for port in (first, first + 1)]
            assert pages == [3, 0]
            for taken in (str(first), f"{first}-{first + 1}"):
                with pytest.raises(MetricsPortInUse, match=f"port {taken} on 127.0.0.1 is in use: choose another"):
                    serve_metrics(taken, model="c", log=lines.append).__enter__()
            listening = {one.laddr for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"}
            assert {ip for ip, port in listening if port in (first, first + 1)} == {"127.0.0.1"}
    with pytest.raises(OSError, match="refused"):
        scrape(first)


@pytest.mark.parametrize("ports", ["", None])
def test_nothing_is_served_unless_a_port_is_given(ports: str | None) -> None:
    before = {one.laddr for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"}
    with serve_metrics(ports, model="a", log=lambda line: None):
        assert {one.laddr for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"} == before


@pytest.mark.parametrize("text", ["x", "0", "70000", "9409-9400", "9400-", "-1", "9400 9401"])
def test_text_that_is_not_a_port_is_refused(text: str) -> None:
    with pytest.raises(MetricsPortWrong, match=r"--metrics-port \(FINEPHRASE_METRICS_PORT\): .*write 9400, or"):
        ports_of(text)


def test_names_follow_prometheus_conventions_and_none_is_registered_globally() -> None:
    for metric in RunMetrics("tiny").collect():
        assert re.fullmatch(r"finephrase(_[a-z]+)+", metric.name), metric.name
        assert metric.documentation.endswith(".")
        assert metric.name not in REGISTRY._names_to_collectors
        assert {label for sample in metric.samples for label in sample.labels} <= {"model", "reason"}


def test_every_metric_of_the_alert_rules_exists() -> None:
    known = set()
    for metric in RunMetrics("tiny").collect():
        known.add(f"{metric.name}_total" if metric.type == "counter" else metric.name)
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 4
    for rule in rules:
        named = set(re.findall(r"finephrase_\w+", rule["expr"]))
        assert named, rule
        assert named <= known, rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert set(rule["annotations"]) == {"summary", "description"}
