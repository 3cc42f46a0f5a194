"""Intermediate scores: rank correlations with the final scores, and what stopping early by them costs."""

from __future__ import annotations

import csv
import os
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.results.early import expected_regret, look_early, spearman
from finephrase_dagster.study.paths import REPOSITORY

PUBLISHED = REPOSITORY / (os.environ.get("FINEPHRASE_PUBLISHED") or "../shared/published")
scores = st.floats(0, 1)


def test_runs_that_keep_their_order_correlate_perfectly_and_have_no_regret() -> None:
    curves = {f"run{rank}": {100: rank / 20, 200: rank / 10} for rank in range(5)}
    (look,) = look_early(curves)
    assert (look.step, look.part, look.runs) == (100, 0.5, 5)
    assert look.rank_correlation == pytest.approx(1)
    assert set(look.regret.values()) == {0}


def test_stopping_early_loses_a_run_that_overtakes_late() -> None:
    pairs = [(0.3, 0.3), (0.2, 0.2), (0.1, 0.9), (0.05, 0.1)]
    assert expected_regret(pairs, 0.25, seed=0) > 0.2
    assert expected_regret(pairs, 1.0, seed=0) == 0
    assert expected_regret(pairs, 0.25, seed=0) == expected_regret(pairs, 0.25, seed=0)


def test_a_shorter_run_is_left_out() -> None:
    curves = {"a": {100: 0.1, 200: 0.2}, "b": {100: 0.2, 200: 0.3}, "short": {50: 0.1, 100: 0.9}}
    (look,) = look_early(curves)
    assert look.runs == 2
    assert look.rank_correlation is None


def test_without_intermediate_scores_there_is_no_report() -> None:
    assert look_early({"a": {200: 0.1}, "b": {200: 0.2}}) == []
    assert look_early({}) == []


@given(st.lists(st.tuples(scores, scores), min_size=3, max_size=30))
def test_a_rank_correlation_lies_between_minus_one_and_one_and_is_symmetric(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    correlation = spearman(first, second)
    if correlation is not None:
        assert -1 - 1e-9 <= correlation <= 1 + 1e-9
        assert spearman(second, first) == pytest.approx(correlation)


def test_equal_scores_share_their_rank() -> None:
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9487, abs=1e-4)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=12), st.floats(0.05, 1))
def test_stopping_gains_nothing_and_keeping_all_runs_loses_nothing(
    pairs: list[tuple[float, float]], kept: float
) -> None:
    assert expected_regret(pairs, kept, seed=1) >= 0
    assert expected_regret(pairs, 1.0, seed=1) == 0


if PUBLISHED.is_dir():  # a clone alone has not the published files

    def test_the_published_runs_are_ordered_long_before_their_end() -> None:
        curves: dict[str, dict[int, float]] = defaultdict(dict)
        with (PUBLISHED / "benchmark-results.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["runname"].startswith("mix-fw_edu_hq-") and "seed" not in row["runname"]:
                    curves[row["runname"]][int(row["steps"])] = float(row["agg_score_macro"])
        looks = {look.step: look for look in look_early(curves)}
        assert min(looks) == 500
        early, late = looks[2000].rank_correlation, looks[9000].rank_correlation
        assert early is not None
        assert late is not None
        assert 0.5 < early < late
        assert looks[9000].regret[0.5] <= looks[1000].regret[0.5] < 0.02
