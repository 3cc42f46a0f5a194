"""Completions that were cut off because they reached the token limit."""

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    return "cut off at max_tokens" if row.finish_reason == "length" else None


GATE = row_gate(
    name="truncated",
    sentence="the share of completions that were cut off at max_tokens",
    bound="at most",
    defaults={"threshold": 0.05},
    reason="A completion that was cut has no ending to learn from.",
    remedy="Raise `max_tokens`, ask for a shorter text in the prompt, or shorten long documents.",
    find_flaw=_flaw,
    needs=("finish_reason",),
)
