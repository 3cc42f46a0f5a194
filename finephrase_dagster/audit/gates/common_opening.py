"""Completions that all begin alike, a sign of a generator that repeats itself."""

from collections import defaultdict
from collections.abc import Sequence

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, FailingRow, Gate, Measure, Measurement, Settings


class OpeningShare(Measure):
    """Groups the rows by their first characters."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = 0
        self._ids: dict[str, list[str]] = defaultdict(list)

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        for row in rows:
            self._ids[row.text[: self.settings["characters"]]].append(row.id)

    def result(self) -> Measurement:
        opening, ids = max(self._ids.items(), key=lambda group: len(group[1]), default=("", []))
        return Measurement(
            value=len(ids) / self._rows if self._rows else 0.0,
            detail=f"{len(ids):,} of {self._rows:,} completions begin with {opening!r}; "
            f"there are {len(self._ids):,} distinct openings",
            failing=[FailingRow(id, f"begins with {opening!r}") for id in ids],
            figures={"distinct_openings": len(self._ids)},
        )


GATE = Gate(
    name="common_opening",
    sentence="the share of completions that begin with the most common opening",
    bound="at most",
    defaults={"threshold": 0.5, "characters": 10},
    measure=OpeningShare,
)
