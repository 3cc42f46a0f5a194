"""The throughput sweep without an engine: which settings are measured, what counts as steady, and which one is chosen.

`tests/test_throughput_engine.py` runs a sweep on real engines.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.throughput.choice import Spread, choose, interval, pooled_spread, typical
from finephrase_dagster.throughput.halving import halve
from finephrase_dagster.throughput.machine import Machine, NothingToSweep, applicable_concurrency, applicable_values
from finephrase_dagster.throughput.mishap import classify
from finephrase_dagster.throughput.setting import Setting, speculation_name, speculative_config
from finephrase_dagster.throughput.steady import Reading, steady_state
from finephrase_dagster.throughput.sweep_file import read_sweep
from finephrase_dagster.throughput.tier import cost, tier_outcome

PUBLISHED = Path(os.environ.get("FINEPHRASE_PUBLISHED") or REPOSITORY.parent / "shared" / "published")
CPU = Machine(cpu=True, devices=1, has_suffix=False)
GPU = Machine(cpu=False, devices=4, has_suffix=True)
RUNG = st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True).map(sorted)
SPEEDS = st.lists(st.floats(1, 1e4), min_size=1, max_size=12)


# Which settings are measured.


@given(SPEEDS, RUNG)
def test_halving_keeps_the_fastest_and_the_default_and_measures_no_more_than_the_grid(
    speeds: list[float], replicates: list[int]
) -> None:
    measured: list[tuple[int, int]] = []

    def measure(setting: int, run: int) -> float:
        measured.append((setting, run))
        return speeds[setting]

    rungs = list(halve(range(len(speeds)), replicates, measure, always=0))
    most, left = rungs[-1]
    assert most == replicates[-1]
    assert len(measured) == len(set(measured)) <= len(speeds) * most
    assert 0 in left
    assert max(speeds) in [speeds[setting] for setting in left]
    assert all(len(values) == most for values in left.values())
    for (_, before), (_, after) in itertools.pairwise(rungs):
        assert len(after) <= -(-len(before) // 2) + 1
        assert set(after) <= set(before)


@given(SPEEDS, RUNG, st.sets(st.integers(0, 11)))
def test_a_setting_that_fails_is_not_measured_again(
    speeds: list[float], replicates: list[int], failing: set[int]
) -> None:
    tried: list[int] = []

    def measure(setting: int, run: int) -> float | None:
        tried.append(setting)
        return None if setting in failing else speeds[setting]

    rungs = list(halve(range(len(speeds)), replicates, measure, always=0))
    assert all(tried.count(setting) == 1 for setting in failing & set(range(len(speeds))))
    assert all(not failing & set(left) for _, left in rungs)


def test_every_setting_of_the_shipped_sweep_leaves_completions_alone() -> None:
    spec, own = read_sweep(), {"dtype": "float32", "max-num-seqs": 128}
    values = {(axis, value) for tier in spec.tiers for axis, some in tier.items() for value in some}
    assert len(values) > 15
    for axis, value in values:
        setting = Setting(concurrency=8).with_values({axis: value}, {"max_num_seqs": 128}, 8)
        assert distribution_flags(setting.flags(own)) == distribution_flags(own) == {"dtype": "float32"}


def test_a_setting_names_only_what_differs_from_the_generator() -> None:
    own = {"max_num_seqs": 64, "speculative_config": '{"method": "suffix", "num_speculative_tokens": 32}'}
    assert speculation_name(own) == "suffix_32"
    same = Setting(concurrency=8).with_values({"max_num_seqs": 64, "speculation": "suffix_32"}, own, 8)
    assert (same.name, same.flags(own)) == ("default, concurrency 8", own)
    other = same.with_values({"max_num_seqs": 32, "speculation": "none"}, own, 16)
    assert other.name == "max_num_seqs 32, speculation none, concurrency 16"
    assert other.flags(own) == {"max_num_seqs": 32}
    assert other.with_values({"max_num_seqs": 64}, own, 16).name == "speculation none, concurrency 16"
    for unnamed in ('{"method": "eagle", "model": "x"}', "ngram", "[1]"):
        assert speculation_name({"speculative_config": unnamed}) == "own"
    assert speculative_config("ngram_6")["num_speculative_tokens"] == 6


def left_out(tier: Mapping[str, list[Any]], machine: Machine, own: Mapping[str, Any]) -> dict[str, str]:
    usable, others = applicable_values(tier, own, machine, concurrency=48, context=720)
    for axis, values in tier.items():
        reasons = {other.value for other in others if other.axis == axis}
        assert [value for value in values if value not in reasons] == usable.get(axis, [])
    return {f"{other.axis} {other.value}": other.reason for other in others}


def test_what_a_machine_cannot_vary_is_left_out_with_the_reason() -> None:
    tier = {
        "tensor_parallel_size": [1, 2, 8],
        "max_num_seqs": [16, 64, 256],
        "max_num_batched_tokens": [512, 1024],
        "gpu_memory_utilization": [0.9],
        "speculation": ["none", "suffix_32"],
    }
    cpu = left_out(tier, CPU, {"max_num_seqs": 128, "enable_chunked_prefill": False})
    assert list(cpu) == [
        *("tensor_parallel_size 2", "tensor_parallel_size 8", "max_num_seqs 256", "max_num_batched_tokens 512"),
        *("gpu_memory_utilization 0.9", "speculation suffix_32"),
    ]
    assert "1 memory node" in cpu["tensor_parallel_size 2"]
    assert "the same as 64" in cpu["max_num_seqs 256"]
    assert "VLLM_CPU_KVCACHE_SPACE" in cpu["gpu_memory_utilization 0.9"]
    assert "arctic-inference, which is not installed" in cpu["speculation suffix_32"]
    assert list(left_out(tier, GPU, {})) == ["tensor_parallel_size 8", "max_num_seqs 256"]


def test_the_documents_must_suffice_for_the_requests_in_flight() -> None:
    usable, others = applicable_concurrency([64, 8, 32], 100)
    assert usable == [8, 32]
    assert [other.value for other in others] == [64]
    with pytest.raises(NothingToSweep, match=r"too few for 8 in flight, which need 16.*'documents' in the sweep file"):
        applicable_concurrency([8, 32], 15)


VALID = "documents: 5\nconcurrency: [1]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("documents: [", r":1: not valid YAML"),
        (f"{VALID}tiers: [{{temperature: [1, 2]}}]", r":3: tiers: 'temperature' cannot be swept.*generator"),
        (
            f"{VALID}tiers: [{{speculation: [eagle]}}]",
            r":3: tiers: speculation: 'eagle' is unknown; write none, ngram_6",
        ),
        (f"{VALID}tiers: [{{max_num_seqs: [8, 8]}}]", r"max_num_seqs: write each value once"),
        (
            f"{VALID}tiers: [{{max_num_seqs: [many]}}]",
            r":3: tiers: max_num_seqs: 'many' must be a whole number, 1 or more",
        ),
        (
            f"{VALID}tiers: [{{tensor_parallel_size: [0]}}]",
            r"tensor_parallel_size: 0 must be a whole number, 1 or more",
        ),
        (f"{VALID}tiers: [{{}}]\nreplicates: [4, 2]", r":4: replicates: \[4, 2\] must grow"),
        (f"{VALID}tiers: [{{}}]\nreplicates: [1]", r"one run alone has no interval"),
        (f"{VALID}tiers: [{{}}]\nconfidence: 95", r":4: confidence: is 95; must be less than 1"),
        ("concurrency: [1]\ntiers: [{}]", r"missing field 'documents'"),
        (f"{VALID}tiers: [{{}}]\nseed: 1", r"unknown field 'seed'"),
    ],
)
def test_a_wrong_sweep_file_names_the_field_and_what_to_write(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(StudyError, match=message):
        read_sweep(file)


# What counts as steady.


@given(
    st.integers(1, 40), st.integers(2, 6), st.floats(1, 1e4), st.integers(0, 20), st.floats(0, 1), st.floats(0.05, 2)
)
def test_the_steady_state_has_the_rate_between_the_first_round_and_the_last_request(
    concurrency: int, rounds: int, rate: float, slow_start: int, hits: float, step: float
) -> None:
    readings, counted, done = [], 0.0, 0
    total = rounds * concurrency * 4
    for second in range(10_000):
        in_flight = min(concurrency, total - done)
        counts = {"generated": counted, "prefix_queries": 10 * counted, "prefix_hits": 10 * hits * counted}
        readings.append(Reading(step * second, done, in_flight, counts))
        if not in_flight:
            break
        # The first prompts are read at once, and at the end fewer and fewer requests are under way.
        is_steady = second >= slow_start and in_flight == concurrency
        counted += step * rate * (1.0 if is_steady else 0.1)
        done += 0 if second < slow_start else max(1, concurrency // 4)
        done = min(done, total)
    steady = steady_state(readings, concurrency)
    assert steady is not None
    assert steady.tokens_per_second == pytest.approx(rate, rel=0.06)
    assert steady.prefix_cache_hit_rate == pytest.approx(hits, abs=1e-3)
    assert steady.speculation_acceptance is None


def test_there_is_no_steady_state_before_a_round_is_done_or_without_tokens() -> None:
    def state(*readings: tuple[float, int, int, float]) -> object:
        return steady_state([Reading(at, done, flying, {"generated": sum_}) for at, done, flying, sum_ in readings], 4)

    assert state() is None
    assert state((0, 0, 4, 0), (1, 3, 4, 90)) is None
    assert state((0, 4, 4, 0)) is None
    assert state((0, 4, 4, 5), (1, 5, 4, 5)) is None
    assert state((0, 4, 2, 0), (1, 6, 1, 9)) is None
    assert state((0, 4, 4, 0), (1, 6, 4, 9)) is not None


# Which setting is chosen.


def drawn(factors: Sequence[float], runs: int, noise: float, random_: random.Random) -> dict[int, list[float]]:
    return {
        number: [1000 * factor * math.exp(random_.gauss(0, noise)) for _ in range(runs)]
        for number, factor in enumerate(factors)
    }


def chosen_of(runs: Mapping[int, Sequence[float]]) -> int:
    return choose(runs, pooled_spread(runs.values()), 0.95, lambda number: min(number, 1)).chosen


def test_equal_settings_seldom_replace_the_default() -> None:
    random_ = random.Random(0)
    replaced = sum(chosen_of(drawn([1.0] * 12, 3, 0.09, random_)) != 0 for _ in range(400))
    assert replaced <= 0.06 * 400


def test_a_setting_that_is_faster_than_the_noise_is_chosen() -> None:
    random_ = random.Random(0)
    assert sum(chosen_of(drawn([1.0, 1.75, 1.0, 0.9], 2, 0.06, random_)) == 1 for _ in range(200)) >= 190


@given(st.lists(st.lists(st.floats(1, 1e4), min_size=1, max_size=4), min_size=1, max_size=8))
def test_the_chosen_setting_is_the_simplest_of_those_that_tie_with_the_fastest(groups: list[list[float]]) -> None:
    runs = dict(enumerate(groups))
    spread = pooled_spread(groups)
    choice = choose(runs, spread, 0.95, lambda number: number)
    assert choice.fastest in choice.ties
    assert choice.chosen == min(choice.ties)
    assert typical(runs[choice.fastest]) == max(map(typical, groups))
    if not spread.freedom:
        assert set(choice.ties) == set(runs), "without a replicate, nothing is faster"


def test_an_interval_follows_students_t() -> None:
    spread = pooled_spread([[100, 110, 121]])
    assert (round(spread.sd, 4), spread.freedom) == (0.0953, 2)
    low, high = interval([100, 110, 121], spread, 0.95) or (0, 0)
    # 4.303 is the 97.5 % quantile of Student's t with two degrees of freedom.
    assert math.log(high / low) == pytest.approx(2 * 4.303 * 0.0953 / math.sqrt(3), rel=1e-3)
    assert interval([100], Spread(0.0, 0), 0.95) is None


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published study's files are not here")
def test_the_published_gains_within_its_noise_are_not_taken_for_gains() -> None:
    with (PUBLISHED / "throughput_sweep.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    spread = Spread(0.09 / math.sqrt(2), 10)  # identical settings differed by 7 to 11 %

    def gains(model: str) -> bool:
        row = rows[model]
        runs = {"base": [float(row["base_tps"])], "best": [max(float(row["t0_tps"]), float(row["t1_tps"]))]}
        return choose(runs, spread, 0.95, lambda name: name == "best").chosen == "best"

    assert {model for model in rows if gains(model)} >= {"SmolLM2-1.7B", "SmolLM2-135M", "GPT-OSS-120B"}
    assert not {model for model in rows if gains(model)} & {"Qwen3-1.7B", "Gemma-3-270M", "Qwen3-4B", "Gemma-3-12B"}


def figures(speed: float | None, *, gpus: int = 0, seconds: float = 10) -> dict[str, Any]:
    if speed is None:
        failure = {"kind": "out of memory", "line": "CUDA out of memory"}
        return {"gpus": gpus, "seconds": seconds, "failure": failure}
    steady = {"seconds": 5, "tokens_per_second": speed, "prefix_cache_hit_rate": 0.5, "speculation_acceptance": None}
    times = {"start_seconds": 3, "warmup_seconds": 1, "measured_seconds": 6}
    return {"gpus": gpus, "seconds": seconds, **times, "steady": steady}


def test_the_outcome_of_a_tier_counts_tokens_per_gpu_and_leaves_failed_settings_out() -> None:
    base = Setting(concurrency=8)
    two = base.with_values({"tensor_parallel_size": 2}, {}, 8)
    large = base.with_values({"max_num_seqs": 4096}, {}, 8)
    runs = {
        base: [figures(100, gpus=1), figures(101, gpus=1)],
        two: [figures(180, gpus=2), figures(182, gpus=2)],
        large: [figures(300, gpus=1), figures(None, gpus=1)],
    }
    outcome = tier_outcome(base, runs, 0.95, 2)
    assert outcome is not None
    assert outcome.chosen == base
    rows = {row["name"]: row for row in outcome.found["settings"]}
    assert rows[two.name]["measured"] == [90, 91]
    assert rows[large.name]["failure"]["kind"] == "out of memory"
    assert rows[large.name]["tokens_per_second"] is None
    assert "no setting is faster than default, concurrency 8" in outcome.found["why"]
    assert tier_outcome(base, {large: runs[large]}, 0.95, 2) is None
    halved = tier_outcome(base, {base: runs[base], two: runs[two][:1]}, 0.95, 2)
    assert halved
    assert "faster than every other setting in its first runs" in halved.found["why"]
    alone = tier_outcome(base, {base: runs[base], large: runs[large]}, 0.95, 2)
    assert alone
    assert "the only setting that could be measured" in alone.found["why"]


def test_the_savings_are_what_the_full_grid_would_have_cost_beyond_what_was_spent() -> None:
    base, other, failed = (Setting(concurrency=number) for number in (1, 2, 3))
    runs = {
        base: [figures(1, gpus=2)] * 4,
        other: [figures(1, gpus=2, seconds=30)],
        failed: [figures(None, gpus=2, seconds=5)],
    }
    costs = cost(runs, 4, 3.0)
    assert [costs[part]["measurements"] for part in ("spent", "full_grid", "saved")] == [6, 9, 3]
    assert [costs[part]["seconds"] for part in ("spent", "full_grid", "saved")] == [75, 165, 90]
    assert costs["saved"]["dollars"] == pytest.approx(90 * 2 / 3600 * 3, abs=0.01)
    assert cost({base: [figures(1)]}, 1, 3.0)["spent"]["dollars"] is None, "no GPU was used"


# Why a setting could not be measured.


@pytest.mark.parametrize(
    ("text", "started", "timed_out", "kind", "line"),
    [
        (
            "(EngineCore pid=7) ERROR 11-21 00:44:21 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried\n"
            "RuntimeError: Engine core initialization failed. See root cause above.\n",
            *(False, False, "out of memory", "torch.OutOfMemoryError: CUDA out of memory. Tried"),
        ),
        (
            "ValueError: Free memory on device (70/80 GiB) on startup is less than desired GPU memory utilization\n",
            *(False, False, "out of memory", "ValueError: Free memory on device"),
        ),
        (
            "ValueError: No available memory for the cache blocks.\n",
            *(False, False, "out of memory", "ValueError: No available memory"),
        ),
        (
            "INFO running\nguard: error: killed by SIGKILL; most likely the memory ran out, see `dmesg`\n",
            *(True, True, "out of memory", "guard: error: killed by SIGKILL"),
        ),
        ("INFO loading weights\n", False, True, "time-out", "INFO loading weights"),
        ("ImportError: no such op\n", False, False, "start failure", "ImportError: no such op"),
        ("RuntimeError: cudagraph\n", True, False, "other", "RuntimeError: cudagraph"),
        ("", False, False, "start failure", ""),
    ],
)
def test_a_failure_is_classified_from_the_log(
    tmp_path: Path, text: str, started: bool, timed_out: bool, kind: str, line: str
) -> None:
    log = tmp_path / "engine.log"
    log.write_text(text)
    mishap = classify(log, started=started, timed_out=timed_out)
    assert mishap.kind == kind
    assert mishap.line.startswith(line)
