"""Bookkeeping: every document is accounted for once, and every file is as the manifest describes it."""

from collections import Counter
from collections.abc import Iterator, Sequence

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, FailingRow, Gate, Measure, Measurement, Settings


class Discrepancies(Measure):
    """Compares the manifest with the rows that are in the files."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = 0
        self._ids: set[str] = set()
        self._repeated: dict[str, None] = {}

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        self._count_ids([row.id for row in rows])

    def result(self) -> Measurement:
        self._count_ids([str(row["id"]) for row in self.dataset.rejected])
        discrepancies = [*self.dataset.problems, *self._miscounts()]
        return Measurement(
            value=len(discrepancies),
            detail="; ".join(discrepancies) or "every document is accounted for and every file matches the manifest",
            failing=[FailingRow(id, "occurs more than once") for id in self._repeated],
        )

    def _count_ids(self, ids: Sequence[str]) -> None:
        for id in ids:
            if id in self._ids:
                self._repeated[id] = None
            self._ids.add(id)

    def _miscounts(self) -> Iterator[str]:
        manifest = self.dataset.manifest or {}
        completed, skipped, failed = (manifest[name] for name in ("completed", "skipped", "failed"))
        if manifest["rows_in"] != completed + skipped + failed:
            yield (
                f"rows_in {manifest['rows_in']} is not the sum of completed {completed}, skipped {skipped}"
                f" and failed {failed}"
            )
        if self._rows != completed:
            yield f"the data files hold {self._rows} rows, the manifest lists {completed} completed"
        statuses = Counter(str(row["status"]) for row in self.dataset.rejected)
        for status, count in (("skipped", skipped), ("failed", failed)):
            if statuses[status] != count:
                yield f"rejected.parquet holds {statuses[status]} {status} rows, the manifest lists {count}"
        if unknown := sorted(set(statuses) - {"skipped", "failed"}):
            yield f"rejected.parquet holds rows with the unknown status {', '.join(unknown)}"
        if self._repeated:
            yield f"{len(self._repeated)} ids occur more than once, such as {next(iter(self._repeated))!r}"


GATE = Gate(
    name="accounting",
    sentence="the number of places where rows, files and manifest disagree",
    bound="at most",
    defaults={"threshold": 0},
    measure=Discrepancies,
    needs=("manifest",),
)
