"""Documents for which the generator wrote a completion."""

from collections.abc import Sequence

from finephrase_dagster.audit.gate import AuditedRow, FailingRow, Gate, Measure, Measurement


class CompletedShare(Measure):
    """Reads the share from the manifest's counts."""

    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Ignore the rows: the manifest has the counts."""

    def result(self) -> Measurement:
        manifest = self.dataset.manifest or {}
        completed, rows_in = manifest["completed"], manifest["rows_in"]
        return Measurement(
            value=completed / rows_in if rows_in else 0.0,
            detail=f"{completed:,} of {rows_in:,} documents have a completion",
            failing=[FailingRow(str(row["id"]), f"{row['status']}: {row['reason']}") for row in self.dataset.rejected],
        )


GATE = Gate(
    name="completed",
    sentence="the share of documents with a completion",
    bound="at least",
    defaults={"threshold": 0.99},
    measure=CompletedShare,
    needs=("manifest",),
)
