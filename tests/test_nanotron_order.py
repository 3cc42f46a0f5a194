"""The order in which nanotron reads, as `order.parquet` lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finephrase_dagster.train.nanotron.data import link_data
from finephrase_dagster.train.nanotron.order import blended, stage_order
from test_nanotron_data import SEQUENCE, write_tokens

WEIGHTS = st.lists(st.floats(0.01, 1), min_size=1, max_size=5)


@given(weights=WEIGHTS, places=st.integers(1, 400))
def test_every_component_has_its_share_of_every_beginning(weights: list[float], places: int) -> None:
    order = blended(weights, places)
    shares = np.array(weights) / sum(weights)
    for end in range(1, places + 1):
        counts = np.bincount(order[:end], minlength=len(weights))
        assert np.abs(counts - shares * end).max() < len(weights)


@given(weights=WEIGHTS, places=st.integers(1, 200), more=st.integers(0, 100))
def test_a_shorter_run_reads_what_a_longer_run_reads_first(weights: list[float], places: int, more: int) -> None:
    assert blended(weights, places).tolist() == blended(weights, places + more)[:places].tolist()


def test_equal_shares_take_turns_and_ties_go_to_the_first() -> None:
    assert blended([0.5, 0.5], 6).tolist() == [0, 1, 0, 1, 0, 1]
    assert blended([1, 1, 1], 6).tolist() == [0, 1, 2, 0, 1, 2]
    assert blended([3, 1], 8).tolist() == [0, 1, 0, 0, 0, 1, 0, 0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    web=st.lists(st.integers(SEQUENCE + 1, 60), min_size=1, max_size=4),
    faq=st.lists(st.integers(SEQUENCE + 1, 60), min_size=1, max_size=4),
    places=st.integers(1, 60),
    before=st.integers(0, 20),
    seed=st.integers(0, 3),
)
@pytest.mark.slow
def test_the_listed_order_is_that_of_the_linked_files(
    tmp_path_factory: pytest.TempPathFactory, web: list[int], faq: list[int], places: int, before: int, seed: int
) -> None:
    root = tmp_path_factory.mktemp("data")
    asked: dict[str, Any] = {
        "components": {"web": write_tokens(root / "web", web), "faq": write_tokens(root / "faq", faq)},
        "weights": {"web": 0.7, "faq": 0.3},
        "read_before": {"web": before},
        "sequence": SEQUENCE,
        "seed": seed,
    }
    table = stage_order(places=places, **asked)
    assert table.equals(stage_order(places=places, **asked))
    assert table.schema.metadata == {b"tokens": str(SEQUENCE + 1).encode()}
    rows = table.to_pylist()
    assert [row["component"] for row in rows] == [["web", "faq"][each] for each in blended([0.7, 0.3], places)]
    link_data(root / "linked", sequences=places, **asked)
    for name, sizes in (("web", web), ("faq", faq)):
        begins = np.concatenate([[0], np.cumsum(sizes)])
        pieces = [
            (int(begins[int(path.resolve().stem)]) + piece * (SEQUENCE + 1), f"{name}-{int(path.resolve().stem)}")
            for path in sorted((root / "linked" / name).iterdir())
            for piece in range(sizes[int(path.resolve().stem)] // (SEQUENCE + 1))
        ]
        order = [(row["start"], row["first_document"]) for row in rows if row["component"] == name]
        skipped = before if name == "web" else 0
        assert order == pieces[skipped : skipped + len(order)]
        assert all(row["first_document"] == row["last_document"] for row in rows)


def test_the_seed_orders_the_files_and_nothing_else(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "components": {"web": write_tokens(tmp_path / "web", [40] * 9)},
        "weights": {"web": 1.0},
        "places": 36,
        "read_before": {},
        "sequence": SEQUENCE,
    }
    one, other = stage_order(seed=1, **asked), stage_order(seed=2, **asked)
    assert one["start"].to_pylist() != other["start"].to_pylist()
    assert sorted(one["start"].to_pylist()) == sorted(other["start"].to_pylist()) == list(range(0, 360, 10))
