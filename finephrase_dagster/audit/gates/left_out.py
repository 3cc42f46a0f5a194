"""Completions that no student is trained on, because they fail other gates (a cell's `on_failure: drop_rows`)."""

from collections.abc import Sequence
from typing import Self

from finephrase_dagster.audit.gate import AuditedRow, Gate, Measure, Measurement


class LeftOutShare(Measure):
    """Reads the number of rows that are left out, which is known after all other gates."""

    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Ignore the rows: `Audit.leave_out` counts them."""

    def merge(self, later: Self) -> None:
        """Do nothing: `Audit.leave_out` counts the rows."""

    def result(self) -> Measurement:
        rows, left_out = self.dataset.rows, self.dataset.left_out
        return Measurement(
            value=left_out / rows if rows else 0.0,
            detail=f"{left_out:,} of {rows:,} completions fail a gate and are left out of training",
            failing=left_out,
        )


GATE = Gate(
    name="left_out",
    sentence="the share of completions that are left out of training, because they fail other gates",
    bound="at most",
    defaults={"threshold": 0.5},
    reason="If most completions fail, the rest is no sample of what the generator writes with this prompt, and most of "
    "the generation was paid for nothing.",
    remedy="Improve the prompt or the generator. Raise the threshold if leaving out so many rows is the purpose.",
    measure=LeftOutShare,
    needs=("drop_rows",),
)
