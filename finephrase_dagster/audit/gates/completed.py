"""Documents for which the generator wrote a completion."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Self

from finephrase_dagster.audit.gate import EXAMPLES, AuditedRow, FailingRow, Gate, Measure, Measurement
from finephrase_dagster.corpora.eligibility import NOT_ELIGIBLE


class CompletedShare(Measure):
    """Reads the share from the manifest's counts; documents that are not eligible do not count."""

    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Ignore the rows: the manifest has the counts."""

    def merge(self, later: Self) -> None:
        """Do nothing: the manifest has the counts."""

    def failing_others(self) -> Iterator[FailingRow]:
        for row in self.dataset.rejected:
            if not str(row["reason"]).startswith(NOT_ELIGIBLE):
                yield FailingRow(str(row["id"]), f"{row['status']}: {row['reason']}")

    def result(self) -> Measurement:
        manifest, rejected = self.dataset.manifest or {}, iter(self.failing_others())
        examples = list(islice(rejected, EXAMPLES))
        others = manifest.get("not_eligible", 0)
        completed, eligible = manifest["completed"], manifest["rows_in"] - others
        return Measurement(
            value=completed / eligible if eligible else 0.0,
            detail=f"{completed:,} of {eligible:,} documents have a completion"
            + (f"; {others:,} others are not eligible" if others else ""),
            failing=len(examples) + sum(1 for _ in rejected),
            examples=examples,
        )


GATE = Gate(
    name="completed",
    sentence="the share of documents with a completion",
    bound="at least",
    defaults={"threshold": 0.99},
    reason="The published study lost 0.04 % of its requests; a loss above 1 % is a fault, and what is missing is "
    "rarely a random sample.",
    remedy="See the reasons in `__meta__/rejected.parquet`, remove the cause, and run `finephrase rephrase "
    "--retry-failed`.",
    measure=CompletedShare,
    needs=("manifest",),
)
