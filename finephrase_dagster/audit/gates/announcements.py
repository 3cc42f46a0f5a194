"""Completions that talk to the user before or after their content: "Here is a table of ...", "I hope this helps"."""

import re

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_EDGE = 300  # characters at each end in which an announcement is looked for
_PRODUCT = (
    r"(?:versions?|paraphrase|rephrasing|rewrite|rewriting|rewritten|summary|text|passages?|articles?"
    r"|answers?|response|"
    r"output|table|tutorial|guide|problems?|faqs?|q&a|questions?|list|explanation|commentary|comment"
    r"|discussion|dialogue|"
    r"conversation|narrative|story|continuation|paragraphs?|draft|solution|translation|result|example|steps?"
    r"|facts|points|"
    r"sentence)"
)
_WORK = r"(?:table|tutorial|faqs?|questions|summary|rewrite|rewritten \w+|paraphrase|article|story|narrative|dialogue)"
_OPENING = r"(?:sure|certainly|absolutely|of course|okay|ok|alright|great|understood|got it|no problem)"
_MAKING = (
    r"(?:written|created|rewritten|rephrased|prepared|generated|compiled|turned|converted|summari[sz]ed|put together"
    r"|improved|made|provided|included|added|tried|done)"
)
_POINTING = (
    r"(?:here(?:'s| is| are)|below (?:is|are)|the following(?: \w+)? (?:is|are)|this is"
    rf"|i(?:'ve| have)(?: just)? {_MAKING})"
)
_BEFORE = re.compile(
    rf"\A[\W_]*(?:{_OPENING}(?:!| thing\b|[,.:-]+ *(?:here|i |i'|let|below|the following|this is|to ))"
    rf"|(?:{_OPENING}\b[^\n]{{0,60}}?[,.!:] *)?{_POINTING} (?:an? |the |your |my |some |two |\d+"
    rf" )?(?:[\w'-]+ ){{0,6}}?{_PRODUCT}\b"
    r"|based on (?:the|your) (?:text|passage|document|article|information|content)[^\n,]{0,40}, (?:here|i "
    r"|below|the following)"
    r"|let's (?:start|begin) by (?:reading|rewriting|turning|creating|writing|looking at the text))"
    rf"|(?:[.!?,]\s+|\n\s*){_POINTING} (?:an? |the |your |my |\d+ )(?:[\w'-]+"
    rf" ){{0,6}}?{_WORK}\b[^\n.]{{0,80}}:[*_]*\s*(?:\n|\Z)"
    r"|\bi(?:'d| would) be (?:happy|glad|delighted) to|\bi(?:'m| am) (?:so )?(?:happy|glad|excited|sorry for"
    r"|ready to help)\b"
    r"|\bi(?:'ll| will)(?: now| try to| be happy to)? (?:help you|provide|write|create|rewrite|summari[sz]e"
    r"|convert|explain"
    r"|do my best|start|begin|share|use|walk you)\b|\bi apologi[sz]e\b|\bi hope (?:this|you"
    r"|now)\b[^\n]{0,60}?\b(?:help|find|enjoy|like|inspir)"
)
_AFTER = re.compile(
    r"\b(?:i )?hope (?:this|that|these|the|you|it|my)\b[^\n]{0,80}?\b(?:help|useful|find|enjoy|meets?|clear"
    r"|like|answer|clarif)"
    r"|\blet me know (?:if|how|what|whether|when)\b|\bfeel free to (?:ask|let me|reach out|modify|adjust|tell me)"
    r"|\bis there anything (?:else|more)|\b(?:would|do) you (?:like|want) me to\b"
    r"|\bif you (?:have|need)[^\n.]{0,60}?,? (?:please )?(?:ask me|let me know|i(?:'m| am) here|feel free)"
    r"|\bi(?:'m| am| would be|'d be) (?:here|happy|glad|always|ready) (?:here )?to (?:help|assist)"
    rf"|(?:\A|\n)[\W_]*(?:please )?note(?: that|:)[^\n]{{0,30}}?\b(?:this|the above|i|i've|i have"
    rf"|above)\b[^\n]{{0,30}}?"
    rf"\b(?:{_PRODUCT}|{_MAKING})\b[^\n]{{0,60}}?\b(?:text|original|provided|source|document|passage|prompt|request)"
    r"|\b(?:the|this) (?:above|rewritten|revised|improved) (?:\w+ )?(?:text|version|table|article|tutorial"
    r"|list|passage) "
    r"(?:is|was|has|keeps|maintains|retains|covers|provides|includes)"
    r"|\b(?:good luck|happy (?:learning|reading|coding))!\s*\Z"
)
# One of these is in every text that the expression matches: searching them first is many times faster.
_BEFORE_HINTS = (
    *("here;below;following;this is;i've;i have;i';i will;i would;i am;i hope;i ap;based on;let's").split(";"),  # noqa: SIM905
    *_OPENING[3:-1].split("|"),
)
_AFTER_HINTS = (  # noqa: SIM905 - a list of words
    "hope;let me;feel free;anything;you like;you want;to help;to assist;note;above;rewritten;revised;"
    "improved;ask me;luck;happy"
).split(";")


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    text = row.text.strip()
    for place, pattern, hints, edge in (
        ("before", _BEFORE, _BEFORE_HINTS, text[:_EDGE]),
        ("after", _AFTER, _AFTER_HINTS, text[-_EDGE:]),
    ):
        lower = edge.lower().replace("\u2019", "'")
        match = pattern.search(lower) if any(hint in lower for hint in hints) else None
        if match and not _is_in_source(match.group().strip(), row.source_text):
            return f"talks to the user {place} the content: {edge[match.start() : match.end()].strip()!r}"
    return None


def _is_in_source(phrase: str, source: str | None) -> bool:
    return bool(source) and phrase in str(source).lower().replace("\u2019", "'")


GATE = row_gate(
    name="announcements",
    sentence="the share of completions that talk to the user before or after the content",
    bound="at most",
    blocking=False,
    defaults={"threshold": 0.05},
    reason="Students learn announcements by heart, since so many rows begin alike.",
    remedy="Say in the prompt that nothing may be before or after the content; see in the examples what the"
    " cleaning did not remove.",
    find_flaw=_flaw,
)
