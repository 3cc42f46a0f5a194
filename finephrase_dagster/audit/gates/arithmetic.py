"""Completions with an arithmetic statement that is wrong, such as "12 + 7 = 20"."""

import re
from collections.abc import Sequence, Set
from dataclasses import replace
from fractions import Fraction
from itertools import compress, repeat
from operator import not_
from typing import Self

from finephrase_dagster.audit.equations import HINT, Equation, numbers
from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Gate, Measurement, RowShare, Settings
from finephrase_dagster.audit.prefilter import may_match
from finephrase_dagster.audit.worded_sums import in_figures

_SOLUTION = re.compile(r"^[\W_]*solution\b", re.IGNORECASE | re.MULTILINE)
_ANSWER = re.compile(r"^[\W_]*(?:final )?answer[\W_]*:(?P<answer>.*)", re.IGNORECASE | re.MULTILINE | re.DOTALL)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    return _judge(row, row.equations)


def _judge(row: AuditedRow, found: Sequence[Equation]) -> str | None:
    if wrong := next((equation.text for equation in found if not equation.correct), None):
        return f"a wrong equation: {wrong!r}"
    match = _ANSWER.search(row.text) if found and _SOLUTION.search(row.text) else None
    if match:
        answer, worked = numbers(match["answer"]), numbers(in_figures(row.text[: match.start()]))
        if answer and not any(map(_is_worked, answer, repeat(worked))):
            return f"an answer that the solution does not have: {match['answer'].strip()[:60]!r}"
    return None


def _is_worked(answer: Fraction, worked: Set[Fraction]) -> bool:
    """Return whether a solution has a number, as it is, as a share of 100, or before it was rounded."""
    rounded = (value for value in worked if value.denominator != 1)
    return answer in worked or answer / 100 in worked or any(abs(answer - value) < Fraction(1, 2) for value in rounded)


class Equations(RowShare):
    """Counts the rows with a wrong statement, and how many rows calculate at all."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__("at most", _flaw, dataset, settings, hint=HINT)
        self._with_correct = self._without_digit = self._equations = self._correct = 0

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        self._without_digit += may_match([row.text for row in rows], r"\p{Nd}").count(False)
        for row in compress(rows, self.may_fail(rows)):
            found = row.equations
            self._note(row, _judge(row, found))
            correct = sum(equation.correct for equation in found)
            self._equations += len(found)
            self._correct += correct
            self._with_correct += correct > 0

    def may_fail(self, rows: Sequence[AuditedRow]) -> list[bool]:
        matches = list(super().may_fail(rows))
        for row in compress(rows, map(not_, matches)):
            vars(row)["equations"] = ()  # other gates need not look for them
        return matches

    def merge(self, later: Self) -> None:
        super().merge(later)
        self._with_correct += later._with_correct
        self._without_digit += later._without_digit
        self._equations += later._equations
        self._correct += later._correct

    def result(self) -> Measurement:
        measured, rows = super().result(), self._rows or 1
        figures = {
            "rows_with_correct_equation": self._with_correct / rows,
            "equations": self._equations,
            "correct_equations": self._correct / self._equations if self._equations else None,
            "rows_without_digit": self._without_digit / rows,
        }
        return replace(measured, figures={**measured.figures, **figures})


GATE = Gate(
    name="arithmetic",
    sentence="the share of completions with a wrong arithmetic statement",
    bound="at most",
    defaults={"threshold": 0.05},
    forms={"math": {"threshold": 0.1}},
    reason="Students learn wrong sums as well as right ones; a sound generator calculates wrongly in fewer rows.",
    remedy="Look at the equations in the examples. Take a generator that calculates better, or lower the temperature.",
    measure=Equations,
    version=5,
    by_row=True,
)
