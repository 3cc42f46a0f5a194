"""How often a part of the completions, such as their first sentence, is the same."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from finephrase_dagster.audit.gate import (
    EXAMPLES,
    AuditedDataset,
    AuditedRow,
    FailingRow,
    Measure,
    Measurement,
    Settings,
)
from finephrase_dagster.corpora.ids import HashFile, short_hash

REMEMBERED = 50_000  # a text that more than one in so many rows have is remembered


@dataclass(slots=True)
class CommonText:
    """A text that is remembered: since which row, how often it was added, and the first rows."""

    text: str
    since: int
    count: int = 0
    ids: tuple[str, ...] = ()


class TextCounts:
    """Counts texts by their hashes, and remembers the common ones, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self.texts = 0
        self._hashes = HashFile()
        self._remembered: dict[str, CommonText] = {}

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Add the texts of some rows, each with the row's id."""
        pairs = list(rows)
        self._hashes.add(text for text, _ in pairs)
        for text, id in pairs:
            common = self._remembered.get(text)
            if common is None:
                common = self._remembered[text] = CommonText(text, self.texts)
            common.count += 1
            if len(common.ids) < EXAMPLES:
                common.ids = (*common.ids, id)
        self.texts += len(pairs)
        self._forget()

    def merge(self, later: TextCounts) -> None:
        """Add what was added to another."""
        self._hashes.merge(later._hashes)
        for text, other in later._remembered.items():
            common = self._remembered.setdefault(text, CommonText(text, self.texts + other.since))
            common.count += other.count
            common.ids = (*common.ids, *other.ids)[:EXAMPLES]
        self.texts += later.texts
        self._forget()

    def count(self, more_than: float) -> tuple[int, list[CommonText]]:
        """Return how many different texts there are, and those that were added more often; at least the commonest."""
        distinct, times_of = 0, dict[int, int]()
        for hashes, times in self._hashes.counts():
            distinct += len(hashes)
            chosen = times > more_than
            if len(hashes):
                chosen[times.argmax()] = True
            times_of.update(zip(hashes[chosen].tolist(), times[chosen].tolist(), strict=True))
        most = max(times_of.values(), default=0)
        first = min((hash for hash, times in times_of.items() if times == most), default=None)
        wanted = {hash: times for hash, times in times_of.items() if times > more_than or hash == first}
        texts = {hash: one for one in self._remembered.values() if (hash := short_hash(one.text)) in wanted}
        common = [
            CommonText(one.text, 0, times, one.ids) if (one := texts.get(hash)) else CommonText("", 0, times)
            for hash, times in wanted.items()
        ]
        return distinct, sorted(common, key=lambda one: (-one.count, one.text))

    def _forget(self) -> None:
        """Forget texts that were rare since they were first added, if there are too many."""
        if len(self._remembered) > REMEMBERED + REMEMBERED // 4:
            texts, remembered = self.texts, self._remembered.items()
            self._remembered = {text: one for text, one in remembered if one.count * REMEMBERED > texts - one.since}


class CommonShare(Measure):
    """Measures the share of completions that have the most common text in one place.

    A row fails if its text there is one that more than the setting `common`, or else `threshold`, of the rows have.
    """

    place: ClassVar[str]
    """What the completions have in common, for people."""
    fewest: ClassVar[int]
    """How many rows must have a text before it counts as common."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = 0
        self._counts = TextCounts()
        self._common: dict[str, CommonText] = {}

    @abstractmethod
    def part(self, row: AuditedRow) -> str:
        """Return the part of a completion that is counted; rows without one are not."""

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self.count([(self.part(row), row.id) for row in rows])

    def count(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count the parts of completions, each with its row's id."""
        self._rows += len(pairs)
        self._counts.add(pair for pair in pairs if pair[0])

    def merge(self, later: Self) -> None:
        self._rows += later._rows
        self._counts.merge(later._counts)

    def flaw(self, row: AuditedRow) -> str | None:
        common = self._common.get(self.part(row))
        return self._reason(common) if common else None

    def result(self) -> Measurement:
        limit = max(self._rows * self.settings.get("common", self.settings["threshold"]), self.fewest - 1)
        distinct, texts = self._counts.count(limit)
        self._counts = TextCounts()
        self._common = {one.text: one for one in texts if one.text and one.count > limit}
        first = texts[0] if texts and texts[0].count >= self.fewest else CommonText("", 0)
        examples = [FailingRow(id, self._reason(one)) for one in self._common.values() for id in one.ids]
        detail = f"{distinct:,} of {self._rows:,} completions have a different {self.place}"
        if first.text:
            detail = f"{first.count:,} of {self._rows:,} completions begin with {first.text!r}; {detail}"
        return Measurement(
            value=first.count / self._rows if self._rows else 0.0,
            detail=detail,
            failing=sum(one.count for one in self._common.values()),
            examples=examples[:EXAMPLES],
            figures={f"distinct_{self.place.replace(' ', '_')}s": distinct},
        )

    def _reason(self, common: CommonText) -> str:
        return f"begins with {common.text!r}, as {common.count / self._rows:.1%} of the completions do"
