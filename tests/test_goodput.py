"""The ledger of goodput: every engine-second has one part, over kills and resumes, and what is unknown stays null."""

from __future__ import annotations

import heapq
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.rephrase import account as accounts_module
from finephrase_dagster.rephrase.account import (
    Account,
    EngineClock,
    divided,
    load_spent,
    record_expected,
    save_account,
)
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.rephrase.pace import Pace
from finephrase_dagster.rephrase.readme import write_readme
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.results.evidence import _times
from finephrase_dagster.results.figure import styled
from finephrase_dagster.results.figures import figures
from finephrase_dagster.results.figures.goodput import PARTS as FIGURE_PARTS
from finephrase_dagster.results.warehouse import create_tables, mark_current, record_manifests
from rephrase_parts import (
    PROMPTS,
    completion,
    documents,
    failure,
    generator,
    local_server,
    recipe,
    shorten_pauses,
    write_corpus,
)

spans = st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 50)), min_size=1, max_size=30)


@given(spans)
def test_the_shares_of_concurrent_requests_add_up_to_the_time_in_which_there_were_any(
    requests: list[tuple[float, float]],
) -> None:
    clock, entered, shares = EngineClock(), {}, 0.0
    changes = [(begin, number, True) for number, (begin, _) in enumerate(requests)]
    changes += [(begin + length, number, False) for number, (begin, length) in enumerate(requests)]
    covered, in_flight, last = 0.0, 0, 0.0
    for now, number, begins in sorted(changes):
        covered += (now - last) if in_flight else 0.0
        last = now
        if begins:
            entered[number] = clock.enter(now)
        else:
            shares += clock.leave(entered[number], now)
        in_flight += 1 if begins else -1
    assert clock.busy == pytest.approx(covered)
    assert shares == pytest.approx(covered)


@given(st.integers(0, 10**9), st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_a_total_is_divided_without_a_rest(total: int, weights: list[float]) -> None:
    parts = divided(total, weights)
    assert sum(parts) == total
    assert min(parts) >= 0


def test_what_is_unknown_in_one_run_is_unknown_in_all() -> None:
    known = Account(kept=10_000, prefill=4_000, tokens=50, best=10.0, gpu_seconds=10.0, dollars=0.01, runs=1)
    total = known + replace(known, prefill=None, gpu_seconds=None, dollars=None)
    facts = total.facts()
    assert facts["engine_seconds"] == 20
    assert facts["goodput"] == 0.5
    assert [facts[name] for name in ("prefill_seconds", "decode_seconds", "gpu_hours", "dollars")] == [None] * 4
    assert replace(known, best=None).facts()["goodput"] is None
    assert known.facts()["decode_seconds"] == 6


def job_of(tmp_path: Path, url: str, **options: Any) -> RephraseJob:
    corpus = tmp_path / "corpus"
    if not corpus.exists():
        write_corpus(corpus, [documents(40)])
    spec = generator(context=4096, max_tokens=64)
    return RephraseJob(
        files=tuple(str(shard) for shard in sorted(corpus.glob("*.parquet"))),
        prompts=PROMPTS,
        targets={name: Target(folder=str(tmp_path / "out" / name), recipe=recipe(name, spec)) for name in PROMPTS},
        output=str(tmp_path / "out"),
        model="tiny",
        endpoints=(url,),
        concurrency=8,
        chunk_rows=4,
        **options,
    )


def test_every_second_of_interrupted_and_resumed_runs_has_one_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch)
    tries: dict[str, int] = {}
    with local_server() as server:

        def answer(request: dict[str, Any]) -> Any:
            words = str(request["messages"])
            tries[words] = tries.get(words, 0) + 1
            time.sleep(0.02)
            if "Document 5." in words:
                return failure(400, "too dull")
            if "Document 7." in words and tries[words] < 3:
                return failure(500, "once more")
            return completion()

        server.answer = answer  # type: ignore[assignment]
        seen: list[RunStatistics] = []

        def stop(statistics: RunStatistics) -> None:
            if statistics.done > 20 and len(seen) == 1:
                raise KeyboardInterrupt

        for name in PROMPTS:
            folder = LocalFolder(tmp_path / "out" / name)
            folder.path.mkdir(parents=True)
            record_expected(folder, {"gpu_hours": 0.001, "hours": 0.0})
        job, began = job_of(tmp_path, server.url, gpus=2, gpu_hour_dollars=3.0), time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            execute(job, watch=seen.append, show=stop)
        readme = (tmp_path / "out" / "README.md").read_text()
        assert "## Progress" in readme
        manifests = execute(job, watch=seen.append)
    assert len(seen) == 2
    took = 0.0
    for manifest in manifests.values():
        account = manifest["goodput"]
        parts = account["parts"]
        assert round(1000 * sum(parts.values())) == round(1000 * account["engine_seconds"])
        assert account["runs"] == 2
        assert account["completion_tokens"] == manifest["completion_tokens"]
        assert parts["failed"] > 0
        assert parts["unaccounted"] == parts["discarded"] == 0, "a run that was interrupted closes its accounts"
        assert account["prefill_seconds"] is None, "an endpoint of others measures none"
        assert account["gpu_hours"] == pytest.approx(2 * account["engine_seconds"] / 3600, abs=2e-6)
        assert account["dollars"] == pytest.approx(3 * account["gpu_hours"], abs=1e-3)
        assert account["expected"]["ratio"] == pytest.approx(account["gpu_hours"] / 0.001, rel=0.01)
        took += account["engine_seconds"]
    assert sum(manifest["goodput"]["parts"]["repeated"] for manifest in manifests.values()) > 0
    assert took <= time.monotonic() - began
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "## Progress" not in readme
    assert "## Where the time went" in readme


def test_a_killed_run_costs_at_most_the_seconds_between_two_writes(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    spent = Account(kept=5_000, repeated=1_000, runs=1)
    save_account(folder, "print", spent, engines=2, is_open=True)
    content = json.loads(folder.read(accounts_module.ACCOUNT))
    for away, lost in ((3.0, 6_000), (3600.0, 2 * 1000 * accounts_module.SAVE_SECONDS)):
        folder.write(accounts_module.ACCOUNT, json.dumps({**content, "saved": time.time() - away}).encode())
        resumed = load_spent(folder, "print").account
        assert resumed.unaccounted == pytest.approx(lost, abs=100)
        assert resumed.total == spent.total + resumed.unaccounted
    assert load_spent(folder, "another recipe").account == Account()
    save_account(folder, "print", spent, engines=2, is_open=False)
    assert load_spent(folder, "print").account == spent


def test_engine_counters_that_begin_at_zero_again_are_added_to() -> None:
    run = RunStatistics()
    for prefill, decode in ((100.0, 50.0), (110.0, 80.0), (5.0, 15.0), (6.0, 16.0)):
        run.record_engine_counters({"prefill_seconds": prefill, "decode_seconds": decode})
    assert run.engine == {"prefill_seconds": 16.0, "decode_seconds": 46.0}


def test_the_figure_adds_up_for_own_datasets_and_shows_what_is_known_of_published_ones() -> None:
    connection = duckdb.connect()
    create_tables(connection)
    spent = Account(
        kept=60_000, start=20_000, idle=10_000, failed=5_000, discarded=5_000, tokens=500, best=10.0, runs=1
    )
    own = ("a", "synthetic/tiny__web", "faq")
    published = ("b", "synthetic/org/Tiny-1B-it__web", "one")
    sweep = ("b", "throughput/sweep", "tiny-1b")
    names = {"generator": "tiny", "source": "web", "prompt": "faq"}
    run = {"gpu_hours": 2.0, "tokens_per_second": 5.0, "completion_tokens": 36_000}
    settings = [{"settings": "tp=1", "tokens_per_second": 8.0}, {"settings": "tp=2", "tokens_per_second": 10.0}]
    manifests = {
        own: {"version": "1", "completion_tokens": 500, "goodput": spent.facts({"gpu_hours": 0, "hours": 0.0125})},
        published: {"version": "1", "completion_tokens": 36_000, "run": run},
        sweep: {"version": "1", "settings": settings},
    }
    record_manifests(connection, manifests.items())
    mark_current(connection, "mine", [(own, names)])
    theirs = [(published, {**names, "generator": "org/Tiny-1B-it"}), (sweep, {"generator": "Tiny-1B"})]
    mark_current(connection, "theirs", theirs, external=True)
    figure = figures()["goodput"]
    (mine,), (other,) = (
        figure.rows(SimpleNamespace(times=_times(connection, name)))  # type: ignore[arg-type]
        for name in ("mine", "theirs")
    )
    assert mine["goodput"] == pytest.approx(0.5)
    assert sum(mine[part] or 0 for part in FIGURE_PARTS) == pytest.approx(mine["total"])
    assert mine["slower"] == pytest.approx(10 / 3600)
    assert mine["unknown"] is None
    assert other["goodput"] == pytest.approx(0.5)
    assert (other["ideal"], other["unknown"], other["idle"]) == (1.0, 1.0, None)
    assert figure.caption([mine]).startswith("Goodput 50%")
    assert "Most of the rest: engine start, 20%." in figure.caption([mine])
    assert styled(figure.chart([mine, other]))["mark"]["type"] == "bar"
    ratio = connection.execute("SELECT actual_over_planned FROM goodput WHERE study = 'mine'").fetchone()
    assert ratio == (pytest.approx(100 / 45, rel=1e-3),)


def test_the_readme_of_a_run_shows_its_progress_and_can_be_loaded(tmp_path: Path) -> None:
    run = RunStatistics(gpus=1, gpu_hour_dollars=3.0)
    for prompt in PROMPTS:
        run.prompts[prompt].total, run.prompts[prompt].done_before = 4, 2
    name = next(iter(PROMPTS))
    (tmp_path / name).mkdir()
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / name / "part-00000-00000.parquet")
    write_readme(LocalFolder(tmp_path), run)
    text = (tmp_path / "README.md").read_text()
    assert f"| {name} | 2 of 4 | 50% | 0 |" in text
    assert datasets.get_dataset_config_names(str(tmp_path)) == [name]
    assert len(datasets.load_dataset(str(tmp_path), name, split="train", cache_dir=str(tmp_path / "cache"))) == 1


def simulated(rng: random.Random, *, kind: str, places: int, requests: int, stalls: list[tuple[float, float]]) -> float:
    """Return the share of the estimates that are right within 10 %, of those made while ten rounds are left."""

    def length() -> float:
        return {"exponential": rng.expovariate(0.1), "ragged": min(10 * rng.lognormvariate(0, 0.8), 80)}[kind]

    pace, tick, done, sent, now = Pace(), 0.5, 0, places, 0.0
    flying = [(span := length(), span) for _ in range(places)]
    heapq.heapify(flying)
    estimates = []
    while flying:
        if stalls and flying[0][0] > stalls[0][0]:
            (_, pause), *stalls = stalls
            flying = [(end + pause, span + pause) for end, span in flying]
            continue
        while tick < flying[0][0]:
            pace.record(tick, done, 100 * done, in_flight=len(flying))
            if requests - done > 10 * places and pace.is_steady and not stalls:
                estimates.append((tick, pace.seconds_left(requests - done)))
            tick += 0.5
        now, span = heapq.heappop(flying)
        pace.record_request(span)
        done += 1
        if sent < requests:
            span = length()
            heapq.heappush(flying, (now + span, span))
            sent += 1
    assert len(estimates) > 200
    right = [abs((left or 0) / (now - at) - 1) < 0.1 for at, left in estimates]
    return sum(right) / len(right)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exponential", "ragged"])
@pytest.mark.parametrize("stalls", [[], [(80.0, 300.0)]])
def test_the_time_left_is_right_within_a_tenth_after_any_restart(kind: str, stalls: list[tuple[float, float]]) -> None:
    # A restart begins a new pace, which knows nothing of what was finished before it: each run here is one.
    rng = random.Random(7)
    shares = [simulated(rng, kind=kind, places=128, requests=20_000, stalls=list(stalls)) for _ in range(2)]
    assert min(shares) > 0.95
