"""Completions that all begin alike, a sign of a generator that repeats itself."""

from finephrase_dagster.audit.common_text import CommonShare
from finephrase_dagster.audit.gate import AuditedRow, Gate

_LONG = {"characters": 40}  # where completions begin with a label or a table, and with few words such as "Q: What is"


class OpeningShare(CommonShare):
    """Counts the completions by their first characters."""

    place = "opening"
    fewest = 1

    def part(self, row: AuditedRow) -> str:
        return row.text[: self.settings["characters"]]


GATE = Gate(
    name="common_opening",
    sentence="the share of completions that begin with the most common opening",
    bound="at most",
    defaults={"threshold": 0.5, "characters": 10},
    forms=dict.fromkeys(("faq", "qa_pairs", "math", "table", "tutorial", "list", "dialogue"), _LONG),
    reason="Of the study's math completions, 76 % of Qwen3-1.7B's begin alike, against 32 % of SmolLM2-1.7B's, the "
    "better generator.",
    remedy="Read the most common beginnings. Change the wording of the prompt, raise the temperature, or take "
    "another generator.",
    measure=OpeningShare,
    version=2,
)
