"""A bounded sample of a dataset's completions that depends on their ids alone."""

from __future__ import annotations

from collections.abc import Sequence

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.corpora.ids import short_hash


class RowSample:
    """Keeps the completions whose ids have the lowest hashes: the same ones in any order and number of processes."""

    def __init__(self, rows: int) -> None:
        """Keep at most so many rows."""
        self._most = rows
        self._limit = 2**64
        self._kept: list[tuple[int, str, str]] = []

    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Take in rows; those without text are left out."""
        hashes = map(short_hash, [row.id for row in rows])
        kept = [(hash, row.id, row.text) for hash, row in zip(hashes, rows, strict=True) if hash <= self._limit]
        self._keep([one for one in kept if one[2].strip()])

    def merge(self, later: RowSample) -> None:
        """Take in the rows of another sample of the same dataset."""
        self._keep(later._kept)

    def rows(self) -> list[AuditedRow]:
        """Return the rows, in the order of their hashes."""
        return [AuditedRow(id, text) for _, id, text in sorted(self._kept)[: self._most]]

    def _keep(self, rows: list[tuple[int, str, str]]) -> None:
        self._kept += rows
        if len(self._kept) > 2 * self._most:
            self._kept = sorted(self._kept)[: self._most]
            self._limit = self._kept[-1][0]
