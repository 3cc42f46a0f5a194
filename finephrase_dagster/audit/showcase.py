"""Rows to look at: typical ones, the best and the worst of a sample that depends on the ids alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finephrase_dagster.audit.audit import Audit, read_part
from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Measure
from finephrase_dagster.audit.parallel import run_all
from finephrase_dagster.audit.source_texts import SourceTexts
from finephrase_dagster.audit.span import Span

SAMPLED = 2_000
SHOWN = 5


@dataclass(frozen=True)
class ShownRow:
    """A completion with its source and the reasons why it fails, by gate; and figures of the complete texts."""

    id: str
    text: str
    source_text: str | None
    flaws: Mapping[str, str]
    words: int
    different_words: int
    source_words: int | None


@dataclass(frozen=True)
class Showcase:
    """Rows of a sample.

    Attributes:
        sample: the sample: the rows whose ids have the lowest hashes.
        typical: the first rows of the sample that are neither among the best nor the worst.
        best: rows without a flaw that have the most different words.
        worst: rows with the most flaws.
    """

    sample: Sequence[ShownRow]
    typical: Sequence[ShownRow]
    best: Sequence[ShownRow]
    worst: Sequence[ShownRow]


def showcase(audit: Audit) -> Showcase:
    """Return rows to look at; reads the dataset a second time."""
    samples = run_all(_sample, [(audit.dataset, audit.measures, *part) for part in audit.parts])
    sample = [row for _, row in sorted((one for part in samples for one in part), key=lambda one: one[0])[:SAMPLED]]
    worst = sorted((row for row in sample if row.flaws), key=lambda row: -len(row.flaws))[:SHOWN]
    best = sorted((row for row in sample if not row.flaws), key=lambda row: -row.different_words)[:SHOWN]
    typical = [row for row in sample if row not in worst and row not in best][:SHOWN]
    return Showcase(sample, typical, best, worst)


def _sample(
    dataset: AuditedDataset,
    measures: Mapping[str, Measure],
    spans: Sequence[Span],
    sources: SourceTexts | None,
) -> list[tuple[int, ShownRow]]:
    """Return the rows of a part whose ids have the lowest hashes."""
    for measure in measures.values():
        measure.dataset = dataset
    kept: list[tuple[int, AuditedRow]] = []
    limit = 2**64
    for chunk in read_part(dataset, spans, sources):
        kept += [(hash, row) for row in chunk if (hash := row.id_hash) <= limit]
        if len(kept) > 2 * SAMPLED:
            kept = sorted(kept, key=lambda one: one[0])[:SAMPLED]
            limit = kept[-1][0]
    return [(hash, _shown(row, measures)) for hash, row in sorted(kept, key=lambda one: one[0])[:SAMPLED]]


def _shown(row: AuditedRow, measures: Mapping[str, Measure]) -> ShownRow:
    flaws = {name: flaw for name, measure in measures.items() if (flaw := measure.flaw(row)) is not None}
    source_words = None if row.source_text is None else len(row.source_words)
    return ShownRow(row.id, row.text, row.source_text, flaws, len(row.words), len(set(row.words)), source_words)
