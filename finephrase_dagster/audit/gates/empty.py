"""Completions without text."""

from finephrase_dagster.audit.gate import row_gate

GATE = row_gate(
    name="empty",
    sentence="the share of completions without text",
    bound="at most",
    defaults={"threshold": 0.01},
    find_flaw=lambda row, dataset, settings: None if row.text.strip() else "empty",
)
