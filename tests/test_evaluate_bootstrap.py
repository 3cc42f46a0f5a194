"""Bootstrap intervals: what they hold, how wide they are, and how often they are right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.evaluate.bootstrap import interval, resampled_means
from finephrase_dagster.evaluate.categories import categories, counted_tasks
from finephrase_dagster.evaluate.scores import means

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@given(VALUES)
def test_an_interval_contains_the_mean_and_lies_within_the_values(values: list[float]) -> None:
    score = means({"drop": {"": values}}).tasks["drop"]
    low, high = score.interval
    assert low <= score.mean <= high
    assert min(values) - 1e-12 <= low
    assert high <= max(values) + 1e-12


@given(VALUES)
def test_an_interval_is_the_same_every_time(values: list[float]) -> None:
    assert means({"drop": {"": values}}) == means({"drop": {"": values}})


@given(VALUES, VALUES)
def test_a_task_has_the_same_interval_whatever_other_tasks_there_are(values: list[float], others: list[float]) -> None:
    alone = means({"drop": {"": values}}).tasks["drop"]
    assert means({"gsm8k": {"": others}, "drop": {"": values}}).tasks["drop"] == alone


@given(st.floats(0, 1), st.integers(1, 50))
def test_equal_values_have_an_interval_of_no_width(value: float, count: int) -> None:
    low, high = means({"drop": {"": [value] * count}}).tasks["drop"].interval
    assert high - low < 1e-12


@given(st.integers(0, 2**32 - 1))
def test_four_times_as_many_items_halve_an_interval(seed: int) -> None:
    values = np.random.default_rng(seed).beta(0.5, 2, size=100)
    few, many = (means({"drop": {"": list(np.tile(values, times))}}).tasks["drop"].interval for times in (1, 4))
    assert (many[1] - many[0]) / (few[1] - few[0]) == pytest.approx(0.5, abs=0.1)


def test_an_interval_is_as_wide_as_the_standard_error_predicts() -> None:
    values = np.random.default_rng(5).beta(0.5, 2, size=1000)
    score = means({"drop": {"": list(values)}}).tasks["drop"]
    assert score.stderr is not None
    assert score.interval[1] - score.interval[0] == pytest.approx(2 * 1.96 * score.stderr, rel=0.1)


def test_intervals_contain_the_true_mean_about_95_times_in_100() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for trial in range(600):
        values = generator.beta(0.5, 2, size=200)  # skewed, as probabilities are
        low, high = interval(resampled_means(f"trial {trial}", [values]), float(values.mean()))
        hits += low <= 0.2 <= high
    assert 0.92 <= hits / 600 <= 0.975


@pytest.mark.slow
def test_macro_intervals_contain_the_true_mean_about_95_times_in_100() -> None:
    generator = np.random.default_rng(4)
    truth = {task: 0.05 + 0.05 * index for index, task in enumerate(counted_tasks())}
    macro = np.mean([np.mean([truth[task] for task in tasks]) for tasks in categories().values()])
    hits = 0
    for _ in range(200):
        sample = {task: {"": list(generator.beta(2 * mean, 2 - 2 * mean, size=100))} for task, mean in truth.items()}
        interval_of_macro = means(sample).macro_interval
        assert interval_of_macro is not None
        hits += interval_of_macro[0] <= macro <= interval_of_macro[1]
    assert 0.90 <= hits / 200 <= 0.99


def test_a_macro_interval_is_narrower_than_those_of_its_tasks() -> None:
    generator = np.random.default_rng(6)
    measured = means({task: {"": list(generator.beta(0.5, 2, size=100))} for task in counted_tasks()})
    assert measured.macro_interval is not None
    widths = [score.interval[1] - score.interval[0] for score in measured.tasks.values()]
    assert measured.macro_interval[1] - measured.macro_interval[0] < min(widths)


def test_subsets_are_resampled_separately() -> None:
    """One subset of zeros and one of ones: resampled together, their share would vary."""
    measured = means({"mmlu_redux_cf": {"anatomy": [0.0] * 20, "virology": [1.0] * 20}}).tasks["mmlu_redux_cf"]
    assert (measured.mean, measured.interval) == (0.5, (0.5, 0.5))
