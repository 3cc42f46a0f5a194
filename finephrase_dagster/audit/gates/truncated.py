"""Completions that were cut off because they reached the token limit."""

from finephrase_dagster.audit.gate import row_gate

GATE = row_gate(
    name="truncated",
    sentence="the share of completions that were cut off at max_tokens",
    bound="at most",
    defaults={"threshold": 0.05},
    find_flaw=lambda row, dataset, settings: "cut off at max_tokens" if row.finish_reason == "length" else None,
    needs=("finish_reason",),
)
