"""A bounded sample of a dataset's completions that depends on their ids alone."""

from __future__ import annotations

from collections.abc import Sequence

from finephrase_dagster.audit.gate import AuditedRow

_Kept = tuple[int, str, str, str]  # the hash, the id, the text and its source


class RowSample:
    """Keeps the completions whose ids have the lowest hashes: the same ones in any order and number of processes."""

    def __init__(self, rows: int, *, sources: bool = False) -> None:
        """Keep at most so many rows, with their sources if those are needed."""
        self._most, self._sources = rows, sources
        self._limit = 2**64
        self._kept: list[_Kept] = []

    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Take in rows; those without text are left out."""
        self._keep(
            [
                (row.id_hash, row.id, row.text, (row.source_text or "") if self._sources else "")
                for row in rows
                if row.id_hash <= self._limit and row.text.strip()
            ]
        )

    def merge(self, later: RowSample) -> None:
        """Take in the rows of another sample of the same dataset."""
        self._keep(later._kept)

    def rows(self) -> list[AuditedRow]:
        """Return the rows, in the order of their hashes."""
        kept = sorted(self._kept)[: self._most]
        return [AuditedRow(id, text, source_text=source or None) for _, id, text, source in kept]

    def _keep(self, rows: list[_Kept]) -> None:
        self._kept += rows
        if len(self._kept) > self._most + self._most // 4:
            self._kept = sorted(self._kept)[: self._most]
            self._limit = self._kept[-1][0]
