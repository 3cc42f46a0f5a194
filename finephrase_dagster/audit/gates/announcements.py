"""Completions that talk to the user before or after their content: "Here is a table of ...", "I hope this helps"."""

import re
from collections.abc import Iterator, Sequence

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate
from finephrase_dagster.audit.talk import may_talk, plain, talk

_EDGE = 300  # characters at each end in which an announcement is looked for
# A sentence in which the writer speaks of the text: "I kept all numbers of the original."
_LABEL = re.compile(r"\W*(?:\w+ ){0,2}?\w+\W?:|\W*(?:q|how|why|what|when|where|can|should|do|if|who)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[^\n.!?|]+")
_WRITER = re.compile(r"\bI(?:['\u2019](?:ve|ll|d|m))? (?=[a-z])|\b[Mm]y [a-z]|\b[Ll]et me ")
_WRITER_HINTS = ("I ", "I'", "I\u2019", "my ", "My ", "et me ")
_TEXT = re.compile(
    r"\b(?:texts?|passage|article|document|original|rewr\w+|rephras\w+|paraphras\w+|summar\w+|tutorial|table|faqs?"
    r"|request|instructions?|feedback|word problem|questions? and answers?|your questions?"
    r"|if you (?:like|want|wish|prefer|need)|help you|(?:all|keep|kept) the (?:numbers|facts|names))\b",
    re.IGNORECASE,
)


def _spoken(edge: str, source: str) -> str | None:
    """Return a sentence at an edge in which the writer speaks of the text."""
    if not any(hint in edge for hint in _WRITER_HINTS) or not _WRITER.search(edge) or _WRITER.search(source):
        return None
    for sentence in map(re.Match.group, _SENTENCE.finditer(edge)):
        if (
            (writer := _WRITER.search(sentence))
            and not _LABEL.match(sentence)
            and _TEXT.search(sentence, writer.start())
        ):
            return sentence.strip()
    return None


def _edges(row: AuditedRow) -> tuple[str, str]:
    text = row.text.strip()
    return text[:_EDGE], text[-_EDGE:]


def _may_talk(rows: Sequence[AuditedRow], dataset: AuditedDataset) -> Iterator[bool]:
    edges = [_edges(row) for row in rows]
    before, after = ([plain(one[place]) for one in edges] for place in (0, 1))
    for pair, *may in zip(edges, may_talk("before", before), may_talk("after", after), strict=True):
        yield any(may) or any(hint in edge for edge in pair for hint in _WRITER_HINTS)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    source = row.source_text or ""
    for place, edge in zip(("before", "after"), _edges(row), strict=True):
        for match in talk(place, plain(edge)):
            if match.group().strip() not in plain(source):
                excerpt = " ".join(edge[match.start() : match.end()].split()).lstrip(".,:;!? ")
                return f"talks to the user {place} the content: {excerpt!r}"
        if sentence := _spoken(edge, source):
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
    version=3,
)
