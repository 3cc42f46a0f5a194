"""Categories and means, against the study's published columns."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.evaluate.categories import (
    CATEGORIES,
    UnknownTask,
    categories,
    category_means,
    counted_tasks,
    macro_mean,
    means_without,
    micro_mean,
    partial_words,
    unscored_tasks,
)
from finephrase_dagster.evaluate.metric import Metric, final_scores
from finephrase_dagster.evaluate.scores import NoItems, means
from finephrase_dagster.evaluate.tasks import benchmarks

TASKS = counted_tasks()

REPOSITORY = Path(__file__).resolve().parent.parent
PUBLISHED = Path(os.environ.get("FINEPHRASE_PUBLISHED") or REPOSITORY.parent / "shared" / "published")

# One published row: the mixture of the article prompt and DCLM at step 500, rounded to 12 digits.
TRANSCRIBED = {
    "arc_cf:easy": 0.014833769488,
    "drop": 0.052494604545,
    "gsm8k": 0.07628293501,
    "hellaswag_cf": 0.025882224435,
    "openbookqa_cf": 0.003761496777,
    "piqa_cf": 0.016008002484,
    "squad_v2": 0.076751587968,
    "treb_qa": 0.012121966893,
    "wikitablequestions": 0.061337958821,
    "winogrande_cf": 0.003585912282,
    "xcsqa_cf": 0.002165100633,
    "mmlu_redux_cf": 0.034094806419,
    "RC": 0.064623096251,
    "GK": 0.024464287954,
    "NLU": 0.014734068358,
    "MATH": 0.07628293501,
    "TABLE": 0.036729962857,
    "RES": 0.007311533298,
    "micro": 0.031610030479,
    "macro": 0.037357647288,
}


def published_rows() -> list[dict[str, float]]:
    """Return the published rows under our names; the transcribed one where the files are missing."""
    path = PUBLISHED / "benchmark-results.csv"
    if not path.is_file():
        return [TRANSCRIBED]
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            named = {task: row[_column(task)] for task in TASKS}
            named |= {name: row[f"agg_score_{name}"] for name in (*CATEGORIES, "micro", "macro")}
            rows.append({name: float(value) for name, value in named.items()})
    return [TRANSCRIBED, *rows]


def _column(task: str) -> str:
    suffix = ":_average" if task == "mmlu_redux_cf" else ""
    return f"lighteval|{task}{suffix}|3/prob_norm_token"


def test_categories_and_means_reproduce_the_published_columns() -> None:
    rows = published_rows()
    for row in rows:
        means = {task: row[task] for task in TASKS}
        assert category_means(means) == pytest.approx({name: row[name] for name in CATEGORIES}, abs=1e-9)
        assert micro_mean(means) == pytest.approx(row["micro"], abs=1e-9)
        assert macro_mean(means) == pytest.approx(row["macro"], abs=1e-9)


def test_every_task_but_arc_challenge_is_in_exactly_one_category() -> None:
    assert len(TASKS) == len(set(TASKS)) == 12
    assert sorted([*TASKS, "arc_cf:challenge"]) == sorted(benchmarks())


@given(st.floats(0, 1))
def test_arc_challenge_moves_no_mean(value: float) -> None:
    means = {task: index / 20 for index, task in enumerate(TASKS)}
    more = means | {"arc_cf:challenge": value}
    assert category_means(more) == category_means(means)
    assert (micro_mean(more), macro_mean(more)) == (micro_mean(means), macro_mean(means))
    assert micro_mean({"arc_cf:challenge": value}) is None


@given(st.sets(st.sampled_from(TASKS), max_size=len(TASKS) - 1))
def test_a_missing_task_is_never_counted_as_zero(tasks: set[str]) -> None:
    means = dict.fromkeys(tasks, 0.5)
    assert micro_mean(means) is None
    assert macro_mean(means) is None
    assert set(category_means(means).values()) <= {0.5}
    for category in category_means(means):
        assert set(categories()[category]) <= tasks


@given(st.lists(st.floats(0, 1), min_size=len(TASKS), max_size=len(TASKS)))
def test_means_lie_between_the_smallest_and_the_largest_task(values: list[float]) -> None:
    means = dict(zip(TASKS, values, strict=True))
    for mean in (micro_mean(means), macro_mean(means)):
        assert mean is not None
        assert min(values) - 1e-12 <= mean <= max(values) + 1e-12


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UnknownTask, match=r"no benchmark 'trivia'.*arc_cf:easy"):
        macro_mean({"trivia": 0.5})


def test_a_task_score_has_its_standard_error() -> None:
    score = means({"gsm8k": {"": [0.1, 0.2, 0.6]}}).tasks["gsm8k"]
    assert (score.mean, score.n) == (pytest.approx(0.3), 3)
    assert score.stderr == pytest.approx(0.26457513110645906 / 3**0.5)
    assert means({"gsm8k": {"": [0.4]}}).tasks["gsm8k"].stderr is None


def test_a_task_with_subsets_is_the_mean_of_their_means_however_many_items_each_has() -> None:
    score = means({"mmlu_redux_cf": {"anatomy": [0.1, 0.3], "virology": [0.9] * 6}}).tasks["mmlu_redux_cf"]
    assert (score.mean, score.n) == (pytest.approx((0.2 + 0.9) / 2), 8)
    assert score.stderr == pytest.approx((0.02 / 2) ** 0.5 / 2)


def test_scores_of_all_tasks_have_both_means_each_with_an_interval() -> None:
    complete = means({task: {"": [index / 100, index / 50]} for index, task in enumerate(benchmarks())})
    assert set(complete.categories) == set(complete.category_intervals) == set(CATEGORIES)
    for mean, interval in [
        (complete.micro, complete.micro_interval),
        (complete.macro, complete.macro_interval),
        *((mean, complete.category_intervals[name]) for name, mean in complete.categories.items()),
        *((score.mean, score.interval) for score in complete.tasks.values()),
    ]:
        assert mean is not None
        assert interval is not None
        assert interval[0] <= mean <= interval[1]


def test_a_study_of_some_tasks_has_partial_means_over_these() -> None:
    part = means({"gsm8k": {"": [0.25]}, "arc_cf:easy": {"": [0.5]}, "arc_cf:challenge": {"": [0.9]}})
    assert (part.micro, part.macro) == (0.375, 0.375)
    assert part.macro_interval == (0.375, 0.375)
    words = partial_words(unscored_tasks(part.tasks))
    assert words.startswith("partial: macro and micro are means over 2 of the 12 tasks that count. Not evaluated: ")
    assert "gsm8k" not in words
    assert (unscored_tasks(TASKS), partial_words(())) == ((), "")
    assert means({"arc_cf:challenge": {"": [0.9]}}).macro is None


@pytest.mark.parametrize("empty", [{}, {"": []}, {"anatomy": [0.5], "virology": []}])
def test_a_task_without_items_is_an_error_and_never_a_zero(empty: dict[str, list[float]]) -> None:
    with pytest.raises(NoItems, match=r"task drop has no items to score. Check evaluation.items"):
        means({"gsm8k": {"": [0.5]}, "drop": empty})


def test_held_out_tasks_count_for_no_mean_but_their_own() -> None:
    tasks = {task: float(index) for index, task in enumerate(benchmarks())}
    point = {"step": 9, "tasks": tasks, "macro": -1.0, "bits_per_byte": {"tasks": dict.fromkeys(tasks, 1.0)}}
    held = ["gsm8k", "drop", "arc_cf:challenge"]
    found = means_without(point, held)
    assert found["step"] == 9
    assert set(found["categories"]) == set(CATEGORIES) - {"MATH"}
    assert found["categories"]["RC"] == tasks["squad_v2"]
    assert found["macro"] == pytest.approx(sum(found["categories"].values()) / 5)
    assert found["micro"] == pytest.approx(sum(tasks[task] for task in counted_tasks() if task not in held) / 10)
    assert found["held_out"] == pytest.approx(sum(tasks[task] for task in held) / 3)
    assert found["bits_per_byte"]["macro"] == found["bits_per_byte"]["held_out"] == 1
    del tasks["drop"]
    assert means_without(point, held)["held_out"] is None
    assert means_without(point, held)["macro"] == found["macro"]


@pytest.mark.parametrize(
    ("text", "canonical", "sign"),
    [
        ("macro", "macro", 1),
        ("bits_per_byte", "macro/bits_per_byte", -1),
        ("last5", "macro/last5", 1),
        ("arc_cf:easy/last5/bits_per_byte", "arc_cf:easy/bits_per_byte/last5", -1),
        ("nothing/of/this", "nothing/of/this", 1),
    ],
)
def test_a_score_is_named_by_its_parts_in_any_order(text: str, canonical: str, sign: int) -> None:
    metric = Metric.read(text)
    assert (str(metric), metric.sign) == (canonical, sign)
    assert Metric.read(canonical) == metric


@given(st.integers(1, 9), st.data())
def test_the_second_estimate_is_the_mean_of_the_last_five_checkpoints(count: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    curve = {10 * step: {"macro": value, "gsm8k": value} for step, value in enumerate(values)}
    if count > 1:
        del curve[10 * (count - 2)]["gsm8k"]
    final = final_scores(curve)
    assert final["macro"] == values[-1]
    assert ("macro/last5" in final) == (count >= 5)
    assert "gsm8k/last5" not in final
    if count >= 5:
        assert final["macro/last5"] == pytest.approx(sum(values[-5:]) / 5)
