"""Identity: canonical JSON and its hash."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.artifacts.fingerprint import NoDeterministicForm, canonical, differences, fingerprint, plain
from finephrase_dagster.study.student import Seeds

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, min_size=2, max_size=6))
def test_the_order_of_keys_does_not_matter(recipe: dict[str, object]) -> None:
    assert fingerprint(recipe) == fingerprint(dict(reversed(recipe.items())))


@given(values, values)
def test_two_values_share_a_fingerprint_only_if_their_canonical_forms_are_equal(a: object, b: object) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (canonical(a) == canonical(b))


@given(st.dictionaries(st.text(), values | st.tuples(values, values)), st.integers(0, 9))
@pytest.mark.slow
def test_a_recipe_is_hashed_as_its_json_form_whatever_types_it_is_made_of(recipe: dict[str, object], seed: int) -> None:
    seeds = Seeds(data=seed, model=1)
    text = canonical({**recipe, "seeds": seeds})
    assert text == canonical(plain({**recipe, "seeds": {"data": seed, "model": 1}}))
    assert json.loads(text) == plain(recipe) | {"seeds": {"data": seed, "model": 1}}


@given(values)
def test_a_value_does_not_differ_from_itself(value: object) -> None:
    assert differences({"value": value}, {"value": value}) == []


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), float("inf"), b"bytes", {1: "one"}, len])
def test_a_value_without_a_deterministic_form_is_refused_and_its_field_named(value: object) -> None:
    with pytest.raises(NoDeterministicForm, match=r"recipe\.sampling\.top_p"):
        fingerprint({"sampling": {"top_p": value}})


def test_a_difference_names_the_field_and_both_values() -> None:
    old = {"sampling": {"temperature": 1.0, "seed": 0}, "rows": "a"}
    new = {"sampling": {"temperature": 0.7, "seed": 0}, "rows": "a"}
    assert differences(old, new) == ["sampling.temperature: 1.0 -> 0.7"]


def test_the_difference_of_long_values_shows_the_part_that_differs() -> None:
    old = {"prompt": {"template": "word " * 200 + "the end"}, "tasks": ["a", "b"], "gates": {"min": 0.5, "max": 1.0}}
    new = {"prompt": {"template": "word " * 200 + "an end"}, "tasks": ["a", "c"], "gates": {"min": 0.6, "max": 1.0}}
    gates, prompt, tasks = differences(old, new)
    assert gates == "gates.min: 0.5 -> 0.6"
    assert tasks == 'tasks[1]: "b" -> "c"'
    assert "the end" in prompt
    assert "an end" in prompt
    assert len(prompt) < 300


def test_a_spec_is_compared_with_its_json_in_a_manifest_field_by_field() -> None:
    seeds = Seeds(data=1, model=2)
    assert differences({"seeds": {"data": 1, "model": 1}}, {"seeds": seeds}) == ["seeds.model: 1 -> 2"]
