"""Verdicts: what beats what, with the noise of seeds and items, many comparisons, and arms that do not match."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import dunnett, nct, ttest_ind
from scipy.stats import t as student_t
from typer.testing import CliRunner

from finephrase_dagster.commands.main import app
from finephrase_dagster.results.decision import POWER, visible_difference
from finephrase_dagster.results.multiplicity import adjusted, critical, exceedance
from finephrase_dagster.results.noise import Replicates, noise_of, published_spread
from finephrase_dagster.results.scored_runs import ScoredRun
from finephrase_dagster.results.verdict import NotComparable, Verdict, compare
from test_published_study import score_rows, write_csv

NUMBERS = count()


def run(mixture: str, macro: float, **changes: Any) -> ScoredRun:
    fields: dict[str, Any] = {
        "study": "demo",
        "run": f"{mixture} {next(NUMBERS)}",
        "fingerprint": f"f{next(NUMBERS)}",
        "mixture": mixture,
        "student": "nano",
        "seed": None,
        "decay_from": None,
        "external": False,
        "complete": True,
        "parameters": 1000,
        "tokens": 100,
        "mix_in": {"web": 0.5},
        "original": False,
        "epochs": 1.0,
        "evaluation": "here",
        "samples": None,
        "curve": {5: {"macro": macro}},
    }
    return ScoredRun(**{**fields, **changes})


def arm(mixture: str, macros: Sequence[float], **changes: Any) -> list[ScoredRun]:
    return [run(mixture, macro, **changes) for macro in macros]


def verdict_of(runs: list[ScoredRun], mixture: str = "faq", **options: Any) -> Verdict:
    return next(verdict for verdict in compare(runs, "raw", **options) if verdict.arm.mixture == mixture)


RAW = [0.100, 0.102, 0.098]


@pytest.mark.parametrize(
    ("macros", "word"),
    [
        ([0.120, 0.121, 0.119], "beats"),
        ([0.080, 0.081, 0.079], "loses"),
        ([0.104, 0.107, 0.101], "undecided"),
    ],
)
def test_an_interval_without_zero_beats_or_loses(macros: list[float], word: str) -> None:
    verdict = verdict_of([*arm("raw", RAW), *arm("faq", macros)])
    assert verdict.verdict == word
    assert verdict.interval is not None
    assert verdict.p_value is not None
    assert (verdict.interval[0] > 0 or verdict.interval[1] < 0) == (verdict.p_value < 0.05) == (word != "undecided")


def test_an_interval_within_the_smallest_difference_of_interest_is_a_tie() -> None:
    close = [0.1001, 0.1002, 0.1000]
    assert verdict_of([*arm("raw", [0.1, 0.1001, 0.0999]), *arm("faq", close)]).verdict == "ties"


def test_one_run_per_mixture_without_noise_is_undecided_and_has_no_interval() -> None:
    verdict = verdict_of([*arm("raw", [0.1]), *arm("faq", [0.9])])
    assert (verdict.verdict, verdict.interval, verdict.p_value, verdict.noise) == ("undecided", None, None, None)
    assert verdict.as_json()["noise"]["source"].startswith("unknown")


def test_one_run_per_mixture_of_a_published_size_has_the_published_spread() -> None:
    runs = [run(mixture, macro, parameters=1_672_071_168) for mixture, macro in (("raw", 0.12), ("faq", 0.15))]
    verdict = verdict_of(runs)
    assert verdict.verdict == "beats"
    assert verdict.noise is not None
    assert "published spread of the student 1.7b" in verdict.noise.source
    assert verdict.noise.degrees_of_freedom == 16
    assert published_spread("nano", 1000, "macro") is None


def test_three_seeds_on_both_sides_give_the_variance_of_welch() -> None:
    first, second = Replicates((0.1, 0.2, 0.4)), Replicates((0.5, 0.51, 0.53, 0.5))
    noise = noise_of(first, second, [first, second], None)
    assert noise is not None
    expected = ttest_ind(second.values, first.values, equal_var=False)
    assert (second.mean - first.mean) / noise.variance**0.5 == pytest.approx(expected.statistic, rel=0.1)
    assert expected.df < noise.degrees_of_freedom < 5
    assert "Welch" in noise.source


def test_fewer_seeds_take_the_noise_of_all_mixtures_of_the_student() -> None:
    runs = [*arm("raw", [0.10, 0.11]), *arm("faq", [0.15]), *arm("table", [0.20, 0.21, 0.22])]
    noise = verdict_of(runs).noise
    assert noise is not None
    assert "pooled over 2 mixtures" in noise.source
    assert 0.007 < noise.sd < 0.01
    assert verdict_of([*arm("raw", [0.10]), *arm("faq", [0.15])], student="nano").noise is None


def test_a_run_that_lacks_a_task_leaves_the_other_seeds_to_be_compared() -> None:
    whole = [*arm("raw", RAW), *arm("faq", [0.12, 0.121])]
    (lacking,) = arm("faq", [0.0], curve={5: {"gsm8k": 0.3}})
    found = verdict_of([*whole, lacking])
    assert (found.interval, found.verdict) == (verdict_of(whole).interval, "beats")
    assert found.as_json()["seeds"] == {"baseline": 3, "mixture": 2}
    assert verdict_of([*arm("raw", RAW), lacking]).difference is None


def test_the_interval_of_one_comparison_alone_is_narrower_than_that_of_all_together() -> None:
    runs = [*arm("raw", RAW), *(one for name in ("faq", "table") for one in arm(name, [0.104, 0.107, 0.101]))]
    verdict = verdict_of(runs)
    assert verdict.interval is not None
    assert verdict.single_interval is not None
    assert verdict.interval[0] < verdict.single_interval[0] < verdict.single_interval[1] < verdict.interval[1]


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=5), min_size=2, max_size=5))
def test_the_noise_of_a_pair_has_no_more_freedom_than_its_seeds(values: list[list[float]]) -> None:
    samples = [Replicates(tuple(one)) for one in values]
    noise = noise_of(samples[0], samples[1], samples, None)
    if noise is not None:
        assert 0 < noise.degrees_of_freedom <= sum(sample.freedom for sample in samples) + 1e-9
        assert noise.variance > 0


def test_against_one_baseline_p_values_are_dunnetts() -> None:
    draw = np.random.default_rng(1)
    groups = [draw.normal(0, 1, 5) for _ in range(4)]
    expected = dunnett(*groups[1:], control=groups[0])
    found = [exceedance(abs(value), 16, ((0.5**0.5,) * 3,)) for value in expected.statistic]
    assert found == pytest.approx(expected.pvalue, abs=2e-3)


def test_one_comparison_is_a_t_test_and_more_comparisons_need_more() -> None:
    for freedom in (2.0, 4.5, 30.0):
        single = critical(freedom, ((0.7,),))
        assert single == pytest.approx(student_t.ppf(0.975, freedom))
        assert single < critical(freedom, ((0.7,) * 3,)) < critical(freedom, ((0.7,) * 10,))
    for question in ("pairs", "exploration"):
        (p_value,), (factor,) = adjusted(question, [2.0], [4.0], (), 2)  # type: ignore[arg-type]
        assert p_value == pytest.approx(2 * student_t.sf(2, 4))
        assert factor == pytest.approx(student_t.ppf(0.975, 4))


def test_many_comparisons_widen_each_interval() -> None:
    alone = [*arm("raw", RAW), *arm("faq", [0.104, 0.107, 0.101])]
    crowd = [*alone, *(one for name in "abcdef" for one in arm(name, [0.101, 0.099, 0.1]))]
    few, many = verdict_of(alone), verdict_of(crowd)
    assert few.interval is not None
    assert many.interval is not None
    assert many.interval[0] < few.interval[0] < few.interval[1] < many.interval[1]
    assert few.p_value < many.p_value  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": 200}, "tokens: 200 against 100"),
        ({"curve": {9: {"macro": 0.9}}}, "step: 9 against 5"),
        ({"mix_in": {"web": 0.3}}, "mix-in: 30 % web against 50 % web"),
        ({"mix_in": {"other": 0.5}}, "mix-in: 50 % other against 50 % web"),
        ({"epochs": 9.4}, "repetition: 9.4 epochs against 1.0"),
        ({"evaluation": "elsewhere"}, "evaluation: elsewhere against here"),
        ({"decay_from": "web"}, "decay: web against from scratch"),
    ],
)
def test_arms_that_differ_in_more_than_their_data_are_flagged_and_not_ranked(change: Any, words: str) -> None:
    verdict = verdict_of([*arm("raw", RAW), *arm("faq", [0.9, 0.91, 0.92], **change), *arm("table", RAW)])
    assert verdict.mismatches == (words,)
    assert (verdict.verdict, verdict.decision) == ("undecided", None)
    assert verdict.interval is not None  # it is shown, but decides nothing


def test_original_text_alone_is_compared_with_what_adds_synthetic_text_to_it() -> None:
    alone = arm("raw", RAW, mix_in={"web": 1.0}, original=True)
    added = arm("faq", [0.2, 0.21, 0.22])
    strange = arm("table", [0.2, 0.21, 0.22], mix_in={"other": 0.5})
    assert verdict_of([*alone, *added]).verdict == "beats"
    assert verdict_of([*alone, *strange], "table").mismatches
    assert not verdict_of([*alone, *arm("faq", RAW, mix_in={}, original=False)]).mismatches


def test_harmless_repetition_matches_and_what_is_unknown_is_named() -> None:
    assert not verdict_of([*arm("raw", RAW, epochs=0.5), *arm("faq", RAW, epochs=3.9)]).mismatches
    assert verdict_of([*arm("raw", RAW), *arm("faq", RAW, epochs=None)]).unknown == ("repetition",)


def test_an_undecided_comparison_says_how_many_seeds_would_decide() -> None:
    near, far = ([0.104, 0.107, 0.101], [0.105, 0.1065, 0.1035])
    verdicts = [verdict_of([*arm("raw", RAW), *arm("faq", macros)]) for macros in (near, far)]
    more = [verdict.decision for verdict in verdicts if verdict.verdict == "undecided"]
    assert more
    assert all(decision and 0 < decision.seeds < 30 and decision.chance >= POWER for decision in more)
    assert verdict_of([*arm("raw", RAW), *arm("faq", [0.2, 0.21, 0.22])]).decision is None


@pytest.mark.parametrize("seeds", [3, 8])
def test_the_visible_difference_shrinks_with_seeds_and_grows_with_mixtures(seeds: int) -> None:
    here = visible_difference(sd=1, seeds=seeds, arms=3)
    assert visible_difference(sd=1, seeds=seeds + 6, arms=3) < here < visible_difference(sd=1, seeds=seeds, arms=30)
    assert visible_difference(sd=2, seeds=seeds, arms=3) == pytest.approx(2 * here)
    if seeds == 8:  # the textbook's power of a t test
        pair = visible_difference(sd=1, seeds=8, arms=2)
        power = 1 - nct.cdf(student_t.ppf(0.975, 14), 14, pair / (2 / 8) ** 0.5)
        assert power == pytest.approx(POWER, abs=0.01)


def test_unknown_baselines_students_and_metrics_are_named() -> None:
    runs = [*arm("raw", RAW), *arm("faq", RAW)]
    for options, words in (
        ({"baseline": "faqs"}, "Name another one: faq"),
        ({"baseline": "raw", "metric": "makro"}, "Choose from macro"),
        ({"baseline": "raw", "student": "giant"}, "'giant'"),
    ):
        with pytest.raises(NotComparable, match=words):
            compare(runs, **options)  # type: ignore[arg-type]


def write_items(path: Path, scores: list[float], passages: int) -> Path:
    """Write the items of one task; each passage has as many questions as the others."""
    size = len(scores) // passages
    queries = [f"Passage {index // size}.\nQuestion: number {index}?\nAnswer:" for index in range(len(scores))]
    columns = {"task": ["gsm8k"] * len(scores), "subset": [""] * len(scores), "query": queries}
    items = [str(index) for index in range(len(scores))]
    pq.write_table(pa.table({**columns, "item": items, "prob_norm_token": scores}), path)
    return path


def test_items_add_to_the_noise_and_questions_on_one_passage_count_together(tmp_path: Path) -> None:
    parts = []
    for passages in (12, 3):
        raw = write_items(tmp_path / f"raw{passages}", [0.1] * 12, passages)
        faq = write_items(tmp_path / f"faq{passages}", [0.1] * 4 + [0.2] * 4 + [0.9] * 4, passages)
        runs = [
            run(name, 0.0, curve={5: {"gsm8k": value}}, samples=path)
            for name, path, values in (("raw", raw, (0.1, 0.11, 0.09)), ("faq", faq, (0.4, 0.41, 0.39)))
            for value in values
        ]
        verdict = verdict_of(runs, metric="gsm8k")
        parts.append(verdict.as_json()["parts"])
        assert verdict.interval is not None
    assert parts[0]["seeds_sd"] == parts[1]["seeds_sd"]
    assert 0 < parts[0]["items_sd"] < parts[1]["items_sd"]


def test_the_command_prints_and_records_each_verdict_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path / "data"))
    draw = np.random.default_rng(3)
    runs = [
        (f"{name}-seed-{seed}", str(seed), 100, float(mean + draw.normal(0, 0.002)))
        for name, mean in (("base", 0.12), ("better", 0.14), ("equal", 0.12))
        for seed in range(1, 4)
    ]
    scores = write_csv(tmp_path / "scores.csv", score_rows(runs))
    command = CliRunner()
    assert command.invoke(app, ["results", "import", "--scores", str(scores), "--name", "theirs"]).exit_code == 0
    asked = ["results", "compare", "--baseline", "base", "--name", "theirs"]
    for _ in range(2):
        answer = command.invoke(app, [*asked, "--json"])
    comparisons = {row["mixture"]: row for row in json.loads(answer.stdout)["comparisons"]}
    assert comparisons["better"]["verdict"] == "beats"
    assert comparisons["equal"]["verdict"] in ("ties", "undecided")
    assert {
        "mixture",
        "student",
        "verdict",
        "difference",
        "interval",
        "p_value",
        "noise",
        "matched",
        "mismatches",
        "seeds_to_decide",
    } <= set(comparisons["better"])
    assert set(comparisons["better"]["noise"]) == {"sd", "degrees_of_freedom", "source"}
    assert "beats" in command.invoke(app, asked).stdout
    import duckdb

    with duckdb.connect(str(tmp_path / "data" / "warehouse.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT mixture, verdict, rule, noise_source FROM verdicts").fetchall()
    assert len(rows) == 2
    for wrong in (["--baseline", "nothing"], ["--baseline", "base", "--metric", "nothing"]):
        assert command.invoke(app, ["results", "compare", "--name", "theirs", *wrong]).exit_code == 2


def test_without_any_scores_the_next_step_is_named() -> None:
    with pytest.raises(NotComparable, match="no scores to compare yet"):
        compare([], "web")
