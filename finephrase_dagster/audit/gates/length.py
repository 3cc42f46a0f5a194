"""Completions that are much too short or much too long for their source."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Gate, Measurement, RowShare, Settings

_BINS = 20  # of the histogram of words per word of the source, each twice as wide as the one before
_WIDTH = 10  # the bin of a completion that is as long as its source


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    words, source = len(row.words), len(row.source_words)
    if words < min(settings["least_words"], settings["least_ratio"] * source):
        return f"too short: {words} words from a source of {source}"
    if words > settings["most_ratio"] * max(source, settings["most_words"]):
        return f"too long: {words} words from a source of {source}"
    return None


class Lengths(RowShare):
    """Counts the rows of a wrong length, and how many words were written per word read."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__("at most", _flaw, dataset, settings)
        self._words = self._source_words = 0
        self._ratios = [0] * _BINS

    def add(self, rows: Sequence[AuditedRow]) -> None:
        super().add(rows)
        for row in rows:
            words, source = len(row.words), len(row.source_words)
            self._words += words
            self._source_words += source
            if words and source:
                doublings = (words * 1024 // source).bit_length() - 11
                self._ratios[min(max(doublings + _WIDTH, 0), _BINS - 1)] += 1

    def merge(self, later: Self) -> None:
        super().merge(later)
        self._words += later._words
        self._source_words += later._source_words
        self._ratios = [one + other for one, other in zip(self._ratios, later._ratios, strict=True)]

    def result(self) -> Measurement:
        measured = super().result()
        figures = {
            "compression": self._words / self._source_words if self._source_words else None,
            "ratio_histogram": {
                "counts": self._ratios,
                "edges": [0.0, *(2.0 ** (bin - _WIDTH) for bin in range(1, _BINS + 1))],
            },
        }
        return replace(measured, figures={**measured.figures, **figures})


GATE = Gate(
    name="length",
    sentence="the share of completions that are much shorter or longer than their source allows",
    bound="at most",
    blocking=False,
    defaults={"threshold": 0.05, "least_words": 20, "least_ratio": 0.1, "most_words": 150, "most_ratio": 6.0},
    reason="A completion of a few words holds nothing of its source, and one that is many times longer invents.",
    remedy="Read the shortest and the longest rows. State the wanted length in the prompt, or change `max_tokens`.",
    forms={"math": {"least_words": 15}, "qa_pairs": {"least_words": 10}, "list": {"least_words": 10}},
    measure=Lengths,
    needs=("source_text",),
    by_row=True,
)
