"""A small version of `benchmarks/planted.py`: each gate finds the defects that are planted for it, and no others."""

from __future__ import annotations

import importlib.util

import pytest

from finephrase_dagster.study.paths import REPOSITORY

_spec = importlib.util.spec_from_file_location("planted", REPOSITORY / "benchmarks" / "planted.py")
assert _spec is not None
assert _spec.loader is not None
planted = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planted)


@pytest.mark.parametrize("gate", planted.PLANTS)
def test_a_gate_finds_the_rows_with_its_defect_and_no_others(gate: str) -> None:
    figures = planted.measure(gate, 200, seed=7)
    assert figures["planted"] >= 20
    assert figures["recall"] >= planted.WANTED, figures["missed"]
    assert figures["precision"] >= planted.WANTED, figures["false_alarms"]
