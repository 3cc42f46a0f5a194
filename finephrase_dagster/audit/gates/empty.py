"""Completions without text."""

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    return None if row.text.strip() else "empty"


GATE = row_gate(
    name="empty",
    sentence="the share of completions without text",
    bound="at most",
    defaults={"threshold": 0.01},
    find_flaw=_flaw,
)
