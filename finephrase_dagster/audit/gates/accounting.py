"""Bookkeeping: every document is accounted for once, and every file is as the manifest describes it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Self

from finephrase_dagster.audit.gate import (
    EXAMPLES,
    AuditedDataset,
    AuditedRow,
    FailingRow,
    Gate,
    Measure,
    Measurement,
    Settings,
)
from finephrase_dagster.corpora.ids import RepeatedIds

REPEATED = "occurs more than once"


class Discrepancies(Measure):
    """Compares the manifest with the rows that are in the files."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = 0
        self._repeated = RepeatedIds()

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        self._repeated.add(row.id for row in rows)

    def merge(self, later: Self) -> None:
        self._rows += later._rows
        self._repeated.merge(later._repeated)

    def flaw(self, row: AuditedRow) -> str | None:
        return REPEATED if row.id in self._repeated else None

    def result(self) -> Measurement:
        statuses = Counter[str]()
        for row in self.dataset.rejected:
            statuses[str(row["status"])] += 1
            self._repeated.add([str(row["id"])])
        repeated = list(islice(self._repeated.find(self.dataset.ids), EXAMPLES))
        discrepancies = [*self.dataset.problems, *self._miscounts(statuses)]
        if repeated:
            discrepancies.append(f"{self._repeated.count} ids occur more than once, such as {repeated[0]!r}")
        return Measurement(
            value=len(discrepancies),
            detail="; ".join(discrepancies) or "every document is accounted for and every file matches the manifest",
            failing=self._repeated.count if repeated else 0,
            examples=[FailingRow(id, REPEATED) for id in repeated],
        )

    def _miscounts(self, statuses: Counter[str]) -> Iterator[str]:
        manifest = self.dataset.manifest or {}
        completed, skipped, failed = (manifest[name] for name in ("completed", "skipped", "failed"))
        if manifest["rows_in"] != completed + skipped + failed:
            yield (
                f"rows_in {manifest['rows_in']} is not the sum of completed {completed}, skipped {skipped}"
                f" and failed {failed}"
            )
        if self._rows != completed:
            yield f"the data files hold {self._rows} rows, the manifest lists {completed} completed"
        for status, count in (("skipped", skipped), ("failed", failed)):
            if statuses[status] != count:
                yield f"rejected.parquet holds {statuses[status]} {status} rows, the manifest lists {count}"
        if unknown := sorted(set(statuses) - {"skipped", "failed"}):
            yield f"rejected.parquet holds rows with the unknown status {', '.join(unknown)}"


GATE = Gate(
    name="accounting",
    sentence="the number of places where rows, files and manifest disagree",
    bound="at most",
    defaults={"threshold": 0},
    reason="Rows that nobody accounts for cannot be trusted, so nothing may disagree.",
    remedy="Compare the files with `finephrase verify`. Restore the folder from its copy, or rephrase into a new "
    "folder; never edit it.",
    measure=Discrepancies,
    needs=("manifest",),
)
