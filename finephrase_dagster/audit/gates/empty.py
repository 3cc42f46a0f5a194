"""Completions without text: without a letter or a digit."""

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    return None if any(map(str.isalnum, row.text)) else "empty"


GATE = row_gate(
    name="empty",
    sentence="the share of completions without text",
    bound="at most",
    defaults={"threshold": 0.01},
    reason="A generator that understood its prompt writes something for nearly every document.",
    remedy="Look at the documents of the empty completions. Raise `max_tokens` if the model thinks before it "
    "writes, or correct the prompt.",
    find_flaw=_flaw,
    version=2,
)
