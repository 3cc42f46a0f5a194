"""Completions that were cut off, by their `finish_reason`, or without one because they end within a sentence."""

import re
from collections.abc import Sequence

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_ENDS = ".!?\u2026:;\"'\u201d\u2019)]}>*_`|~\u3002\uff01\uff1f\u061f\u0964"
_GOES_ON = re.compile(
    r"(?:,|\(|\w-|\b(?:the|an?|and|or|but|of|to|in|on|at|for|with|by|from|as|is|are|was|were|that|which|who|if|when|than"
    r"|because|into|its|their|this|these|can|will|not|be))$",
    re.IGNORECASE,
)
_ITEM = re.compile(r"[-*+\u2022]\s|\d{1,3}[.)]\s")
_LABEL = re.compile(r"\W*\w[\w ]{0,20}:")
_NO_SENTENCE = re.compile(r"[|#>]|\S+ ?=|.*://")
_FEWEST_WORDS = 5  # of a sentence
_PROSE = 0.8  # of the sentences end with a mark, in a text where the last one must have one


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    if row.finish_reason is not None:
        return "cut off at max_tokens" if row.finish_reason == "length" else None
    sentences = row.sentences
    if len(row.lines) > 1 and row.lines[-1][0] == "|" != row.lines[-1][-1] and row.lines[-2][-1] == "|":
        return f"ends within a row of a table: {row.lines[-1][:60]!r}"
    if not sentences or not (row.lines[-1][-1].isalnum() or row.lines[-1][-1] in ",(-"):
        return None
    last, earlier = row.lines[-1], [one for one in sentences[:-1] if one.count(" ") >= _FEWEST_WORDS - 1]
    if len(earlier) < 2 or not _mostly_end(earlier) or _NO_SENTENCE.match(last):
        return None
    if _GOES_ON.search(last) or (sentences[-1].count(" ") >= _FEWEST_WORDS - 1 and _mostly_end(_peers(row.lines))):
        return f"ends within a sentence: {last[-60:]!r}"
    return None


def _peers(lines: Sequence[str]) -> list[str]:
    """Return the lines that are list items, labelled or neither, as the last one is."""
    kind = next((pattern for pattern in (_ITEM, _LABEL) if pattern.match(lines[-1])), None)
    return [line for line in lines if kind is None or kind.match(line)][:-1] or ["."] * (kind is None)


def _mostly_end(texts: Sequence[str]) -> bool:
    return sum(text[-1] in _ENDS for text in texts) >= _PROSE * len(texts) and bool(texts)


GATE = row_gate(
    name="truncated",
    sentence="the share of completions that were cut off",
    bound="at most",
    defaults={"threshold": 0.05},
    reason="A completion that was cut has no ending to learn from.",
    remedy="Raise `max_tokens`, ask for a shorter text in the prompt, or shorten long documents.",
    find_flaw=_flaw,
)
