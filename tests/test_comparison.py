"""The comparison of mixtures: comparable rows, repetition, and noise from seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.results.comparison import compared, pooled_noise


def row(mixture: str, macro: float | None, *, seeds: int = 1, sd: float | None = None, **other: Any) -> dict[str, Any]:
    return {
        "mixture": mixture,
        "student": "nano",
        "decay_from": None,
        "seeds": seeds,
        "macro": macro,
        "macro_sd": sd,
        **other,
    }


def mixture(epochs: float = 1.0, tokens: int = 1000, **weights: float) -> dict[str, Any]:
    """Return a mixture's manifest; two underscores in a name stand for the slash of a synthetic component."""
    parts = [
        {"name": name.replace("__", "/"), "weight": weight, "epochs": epochs if "__" in name else 0.5}
        for name, weight in weights.items()
    ]
    return {"components": parts, "tokens": tokens}


MIXTURES = {
    "faq": mixture(cell__faq=0.5, web=0.5),
    "table": mixture(epochs=5.2, cell__table=0.5, web=0.5),
    "more_table": mixture(cell__table=0.7, web=0.3),
    "longer": mixture(tokens=2000, cell__faq=0.5, web=0.5),
    "web": mixture(web=1.0),
}
CORPORA = {"web"}


def test_mixtures_with_equal_original_parts_and_budgets_are_comparable() -> None:
    rows = compared([row(name, 0.1) for name in MIXTURES], MIXTURES, CORPORA)
    assert {annotated["mixture"]: annotated["comparable"] for annotated in rows} == {
        "faq": 2,
        "table": 2,
        "more_table": 1,
        "longer": 1,
        "web": 1,
    }
    assert rows[0]["mix_in"] == {"web": 0.5}


def test_runs_of_other_students_or_variants_are_not_comparable() -> None:
    rows = [row("faq", 0.1), row("table", 0.1, student="large"), row("table", 0.1, decay_from="web")]
    assert [annotated["comparable"] for annotated in compared(rows, MIXTURES, CORPORA)] == [1, 1, 1]


def test_rows_show_how_often_the_data_was_repeated() -> None:
    (annotated,) = compared([row("table", 0.1)], MIXTURES, CORPORA)
    assert annotated["epochs"] == 5.2


def test_a_difference_that_seeds_alone_explain_is_noise() -> None:
    rows = [row("faq", 0.120, seeds=3, sd=0.01), row("table", 0.110, seeds=3, sd=0.01)]
    best, second = compared(rows, MIXTURES, CORPORA)
    assert (best["behind"], best["within_noise"]) == (0, True)
    assert second["behind"] == pytest.approx(0.01)
    assert second["noise"] == pytest.approx(0.01)
    assert second["within_noise"]
    far = compared([row("faq", 0.2, seeds=3, sd=0.01), row("table", 0.1, seeds=3, sd=0.01)], MIXTURES, CORPORA)[1]
    assert not far["within_noise"]


def test_the_pooled_noise_of_a_student_applies_to_its_mixtures_with_one_seed() -> None:
    rows = [row("web", 0.1, seeds=4, sd=0.002), row("faq", 0.2), row("table", 0.199)]
    assert compared(rows, MIXTURES, CORPORA)[2]["within_noise"]


def test_without_a_second_seed_the_noise_is_unknown() -> None:
    annotated = compared([row("faq", 0.2), row("table", 0.1), row("web", None)], MIXTURES, CORPORA)
    assert {one["within_noise"] for one in annotated} == {None}
    assert annotated[2]["behind"] is None


@given(st.lists(st.tuples(st.integers(2, 9), st.floats(0, 1)), min_size=1, max_size=5))
def test_the_pooled_noise_lies_between_the_smallest_and_the_largest(seeds: list[tuple[int, float]]) -> None:
    noise = pooled_noise([row("faq", 0.1, seeds=count, sd=sd) for count, sd in seeds])
    assert noise is not None
    deviations = [sd for _, sd in seeds]
    assert min(deviations) - 1e-9 <= noise <= max(deviations) + 1e-9
    assert not math.isnan(noise)
