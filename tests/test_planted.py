"""A small version of `benchmarks/planted.py`: each gate finds the defects that are planted for it, and no others."""

from __future__ import annotations

import importlib
import sys

import pytest

from finephrase_dagster.study.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
planted = importlib.import_module("planted")
sys.path.pop(0)


@pytest.mark.parametrize("gate", planted.PLANTS)
def test_a_gate_finds_the_rows_with_its_defect_and_no_others(gate: str) -> None:
    figures = planted.measure(gate, 400, seed=7)
    assert figures["planted"] >= 40
    assert figures["recall"] >= planted.WANTED, figures["missed"]
    assert figures["precision"] >= planted.WANTED, figures["false_alarms"]
