"""Completions in which the model refuses, or asks for a text that it was given."""

import re
from collections.abc import Sequence

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate
from finephrase_dagster.audit.talk import may_talk, plain, spoken, talk

_QUOTED = re.compile(r"[\"\u201c](?<=[\w,:] .)[^\"\u201d\n]*[\"\u201d]")  # in a text about refusals
_LABELS = ("\nA: ", "\nAnswer: ", "\nProblem: ")
_BEGINNING = 400  # characters; a refusal comes first


def _may_refuse(rows: Sequence[AuditedRow], dataset: AuditedDataset) -> list[bool]:
    return may_talk("refusal", list(map(_beginning, rows)))


def _beginning(row: AuditedRow) -> str:
    text = f"\n{row.text[:_BEGINNING]}"
    for label in _LABELS:
        text = text.replace(label, "\n")
    text = text[1:]
    return plain(_QUOTED.sub(" ", text) if '"' in text or "\u201c" in text else text)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    source, beginning = plain(row.source_text or ""), _beginning(row)
    matches = [match.group().strip() for match in talk("refusal", beginning)]
    if sentence := spoken("refusal", beginning):
        matches.append(sentence)
    return next((f"refuses: {match!r}" for match in matches if match not in source), None)


GATE = row_gate(
    name="refusals",
    sentence="the share of completions that refuse the task",
    bound="at most",
    defaults={"threshold": 0.01},
    reason="A refusal has nothing of its source in it.",
    remedy="Read the examples. Change the wording of the prompt, or leave out the documents that the"
    " generator refuses.",
    find_flaw=_flaw,
    hint=_may_refuse,
    version=6,
)
