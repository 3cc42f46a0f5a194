"""Completions that all begin alike, a sign of a generator that repeats itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from finephrase_dagster.corpora.ids import HashFile, short_hash

REMEMBERED = 100_000  # an opening that more than one in so many rows have is remembered


@dataclass
class Opening:
    """An opening that is remembered: since which row, how often it was seen, and the first rows."""

    text: str
    since: int
    count: int = 0
    ids: list[str] = field(default_factory=list)


class OpeningShare(Measure):
    """Counts the rows by a hash of their first characters, in memory that does not grow with their number."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = 0
        self._common = ""
        self._hashes = HashFile()
        self._remembered: dict[str, Opening] = {}

    def add(self, rows: Sequence[AuditedRow]) -> None:
        openings = [row.text[: self.settings["characters"]] for row in rows]
        self._hashes.add(openings)
        for row, text in zip(rows, openings, strict=True):
            opening = self._remembered.get(text)
            if opening is None:
                opening = self._remembered[text] = Opening(text, self._rows)
            opening.count += 1
            if len(opening.ids) < EXAMPLES:
                opening.ids.append(row.id)
        self._rows += len(rows)
        self._forget()

    def merge(self, later: Self) -> None:
        self._hashes.merge(later._hashes)
        for text, other in later._remembered.items():
            opening = self._remembered.setdefault(text, Opening(text, self._rows + other.since))
            opening.count += other.count
            opening.ids = [*opening.ids, *other.ids][:EXAMPLES]
        self._rows += later._rows
        self._forget()

    def flaw(self, row: AuditedRow) -> str | None:
        alike = row.text[: self.settings["characters"]] == self._common
        return f"begins with {self._common!r}" if alike else None

    def _forget(self) -> None:
        """Forget openings that were rare since they were first seen, if there are too many."""
        if len(self._remembered) > 2 * REMEMBERED:
            kept = {text: one for text, one in self._remembered.items() if one.count > self._expected(one)}
            self._remembered = kept

    def _expected(self, opening: Opening) -> float:
        return (self._rows - opening.since) / REMEMBERED

    def result(self) -> Measurement:
        distinct, count, common = 0, 0, 0
        for hashes, times in self._hashes.counts():
            distinct += len(hashes)
            if len(hashes) and times.max() > count:
                count, common = int(times.max()), int(hashes[times.argmax()])
        opening = next((one for text, one in self._remembered.items() if short_hash(text) == common), Opening("", 0))
        self._common = opening.text
        return Measurement(
            value=count / self._rows if self._rows else 0.0,
            detail=f"{count:,} of {self._rows:,} completions begin with {opening.text!r}; "
            f"there are {distinct:,} distinct openings",
            failing=count,
            examples=[FailingRow(id, f"begins with {opening.text!r}") for id in opening.ids],
            figures={"distinct_openings": distinct},
        )


GATE = Gate(
    name="common_opening",
    sentence="the share of completions that begin with the most common opening",
    bound="at most",
    defaults={"threshold": 0.5, "characters": 10},
    measure=OpeningShare,
)
