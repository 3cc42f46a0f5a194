"""The gate `faithfulness`: names and dates that the source does not have, coverage and similarity."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Measure
from finephrase_dagster.audit.gates.faithfulness import GATE

SOURCE = """The harbour of Brandvik was dredged by the engineer Sigrid Holm on 3 March 1911. Germany paid 300 crowns.
It is 12 metres deep, and 40 ships berth there each week. The plan was by Anders of Tromvik."""


def measure(**settings: Any) -> Measure:
    return GATE.measure(AuditedDataset(files=[]), {**GATE.defaults, **settings})


def row(text: str, id: str = "1") -> AuditedRow:
    return AuditedRow(id, text, source_text=SOURCE)


@pytest.mark.parametrize(
    "text",
    [
        "The harbour was dredged by Sigrid Holm, an engineer, when the Germans paid for Brandvik.",
        "It was finished on March 3, or on 1911-03-03, in English prose, on a Monday.",
        "# How to Use the Harbour of Wonders\n\n| All about Ships | Great Depth |\n\nKey Points: it is deep.",
        "Run `make Harbour Deep`, or see\n```\nimport Big Ships\n```\nand I'll say that You can.",
        "Der Hafen wurde durch den Bau der Mole mit dem Geld der Stadt und der Hilfe von Arbeitern in Form gebracht.",
        "However, Nobody Knows.",
    ],
)
def test_names_and_dates_of_the_source_and_capital_letters_that_show_no_name_pass(text: str) -> None:
    assert measure().flaw(row(text)) is None


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("The harbour was dredged by Karl Wiese in 1911.", "Karl Wiese"),
        ("It was planned by the University of Upper Lund long ago.", "University of Upper Lund"),
        ("The ships came from Portugal to berth there.", "Portugal"),
        ("The work began on October 4, 1911.", "October 4"),
        ("The work began on 4 October 1911.", "4 October"),
    ],
)
def test_a_name_or_a_date_that_the_source_lacks_is_found(text: str, unknown: str) -> None:
    assert str(measure().flaw(row(text))).startswith(f"not in the source: {unknown[:9]}")


def test_the_share_of_rows_and_the_coverage_are_the_same_for_merged_measures() -> None:
    texts = [
        "Dug by Karl Wiese, for 300 crowns.",
        "Twelve metres, 40 ships.",
        "Nothing.",
        "In March 1911, Tromvik.",
    ]
    rows = [row(text, str(number)) for number, text in enumerate(texts)]
    whole, first, second = measure(), measure(), measure()
    whole.add(rows)
    first.add(rows[:1])
    second.add(rows[1:])
    first.merge(pickle.loads(pickle.dumps(second)))  # noqa: S301 - our own
    result = whole.result()
    assert first.result() == result
    assert (result.value, result.failing) == (0.25, 1)
    assert result.figures["quantity_coverage"] == pytest.approx((1 / 4 + 2 / 4 + 0 + 1 / 4) / 4)


def test_with_a_model_the_similarity_to_the_source_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Letters:
        """Counts letters, in place of a model that takes seconds to load."""

        def __init__(self, model: str) -> None:
            assert model == "some/model"

        def embed(self, texts: Sequence[str]) -> Any:
            counts = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], float)
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    monkeypatch.setattr("finephrase_dagster.audit.embedding.Embedder", Letters)
    one = measure(model="some/model")
    one.add([row(SOURCE)])
    assert one.result().figures["source_similarity"] == pytest.approx(1)
