"""Completions that talk to the user before or after their content: "Here is a table of ...", "I hope this helps"."""

import re
from collections.abc import Iterator, Sequence
from operator import or_

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate
from finephrase_dagster.audit.talk import may_talk, plain, spoken, talk

_EDGE = 300  # characters at each end in which an announcement is looked for
_WRITER = re.compile(r"\bI(?:['\u2019](?:ve|ll|d|m))? (?=[a-z])|\b[Mm]y [a-z]|\b[Ll]et me ")


def _edges(row: AuditedRow) -> tuple[str, str]:
    text = row.text.strip()
    return text[:_EDGE], text[-_EDGE:]


def _may_talk(rows: Sequence[AuditedRow], dataset: AuditedDataset) -> Iterator[bool]:
    before, after = zip(*(map(plain, _edges(row)) for row in rows), strict=True)
    return map(or_, may_talk("before", before), may_talk("after", after))


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    source = row.source_text or ""
    for place, edge in zip(("before", "after"), _edges(row), strict=True):
        for match in talk(place, plain(edge)):
            if match.group().strip() not in plain(source):
                excerpt = " ".join(edge[match.start() : match.end()].split()).lstrip(".,:;!? ")
                return f"talks to the user {place} the content: {excerpt!r}"
        if (sentence := spoken(place, plain(edge))) and sentence not in plain(source) and not _WRITER.search(source):
            return f"talks to the user {place} the content: {sentence!r}"
    return None


GATE = row_gate(
    name="announcements",
    sentence="the share of completions that talk to the user before or after the content",
    bound="at most",
    blocking=False,
    defaults={"threshold": 0.05},
    reason="Students learn to repeat announcements, because so many rows begin with them.",
    remedy="Say in the prompt that nothing may be before or after the content; see in the examples what the"
    " cleaning did not remove.",
    find_flaw=_flaw,
    hint=_may_talk,
    version=8,
)
