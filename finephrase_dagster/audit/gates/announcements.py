"""Completions that talk to the user before or after their content: "Here is a table of ...", "I hope this helps"."""

import re

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_EDGE = 300  # characters at each end in which an announcement is looked for
_PRODUCT = (
    r"(?:versions?|paraphrase|rephrasing|rewrite|rewriting|rewritten|summary|text|passages?|articles?|answers?|response|"
    r"output|table|tutorial|guide|problems?|faqs?|q&a|questions?|list|explanation|commentary|comment|discussion|dialogue|"
    r"conversation|narrative|story|continuation|paragraphs?|draft|solution|translation|result|example|steps?|facts|points|"
    r"sentence)"
)
_WORK = r"(?:table|tutorial|faqs?|questions|summary|rewrite|rewritten \w+|paraphrase|article|story|narrative|dialogue)"
_OPENING = r"(?:sure|certainly|absolutely|of course|okay|ok|alright|great|understood|got it|no problem)"
_MAKING = (
    r"(?:written|created|rewritten|rephrased|prepared|generated|compiled|turned|converted|summari[sz]ed|put together"
    r"|improved|made|provided|included|added|tried|done)"
)
_POINTING = (
    rf"(?:here(?:'s| is| are)|below (?:is|are)|the following(?: \w+)? (?:is|are)|this is|i(?:'ve| have)(?: just)? {_MAKING})"
)
_BEFORE = re.compile(
    rf"\A[\W_]*(?:{_OPENING}(?:!| thing\b|[,.:-]+ *(?:here|i |i'|let|below|the following|this is|to ))"
    rf"|(?:{_OPENING}\b[^\n]{{0,60}}?[,.!:] *)?{_POINTING} (?:an? |the |your |my |some |two |\d+ )?(?:[\w'-]+ ){{0,6}}?{_PRODUCT}\b"
    r"|based on (?:the|your) (?:text|passage|document|article|information|content)[^\n,]{0,40}, (?:here|i |below|the following)"
    r"|let's (?:start|begin) by (?:reading|rewriting|turning|creating|writing|looking at the text))"
    rf"|(?:[.!?,]\s+|\n\s*){_POINTING} (?:an? |the |your |my |\d+ )(?:[\w'-]+ ){{0,6}}?{_WORK}\b[^\n.]{{0,80}}:[*_]*\s*(?:\n|\Z)"
    r"|\bi(?:'d| would) be (?:happy|glad|delighted) to|\bi(?:'m| am) (?:so )?(?:happy|glad|excited|sorry for|ready to help)\b"
    r"|\bi(?:'ll| will)(?: now| try to| be happy to)? (?:help you|provide|write|create|rewrite|summari[sz]e|convert|explain"
    r"|do my best|start|begin|share|use|walk you)\b|\bi apologi[sz]e\b|\bi hope (?:this|that|now|you)\b"
)
_AFTER = re.compile(
    r"\b(?:i )?hope (?:this|that|these|the|you|it|my)\b[^\n]{0,80}?\b(?:help|useful|find|enjoy|meets?|clear|like|answer|clarif)"
    r"|\blet me know (?:if|how|what|whether|when)\b|\bfeel free to (?:ask|let me|reach out|modify|adjust|tell me)"
    r"|\bis there anything (?:else|more)|\b(?:would|do) you (?:like|want) me to\b"
    r"|\bif you (?:have|need)[^\n.]{0,60}?,? (?:please )?(?:ask me|let me know|i(?:'m| am) here|feel free)"
    r"|\bi(?:'m| am| would be|'d be) (?:here|happy|glad|always|ready) (?:here )?to (?:help|assist)"
    rf"|(?:\A|\n)[\W_]*(?:please )?note(?: that|:)[^\n]{{0,30}}?\b(?:this|the above|i|i've|i have|above)\b[^\n]{{0,30}}?"
    rf"\b(?:{_PRODUCT}|{_MAKING})\b[^\n]{{0,60}}?\b(?:text|original|provided|source|document|passage|prompt|request)"
    r"|\b(?:the|this) (?:above|rewritten|revised|improved) (?:\w+ )?(?:text|version|table|article|tutorial|list|passage) "
    r"(?:is|was|has|keeps|maintains|retains|covers|provides|includes)"
    r"|\b(?:good luck|happy (?:learning|reading|coding))!\s*\Z"
)
# One of these is in every text that the expression matches: searching them first is many times faster.
_BEFORE_HINTS = ("here", "below", "following", "this is", "i've", "i have", "i'", "i will", "i would", "i am", "i hope", "i ap")
_BEFORE_HINTS += ("based on", "let's", *_OPENING[3:-1].split("|"))
_AFTER_HINTS = ("hope", "let me", "feel free", "anything", "you like", "you want", "to help", "to assist", "note")
_AFTER_HINTS += ("above", "rewritten", "revised", "improved", "ask me", "luck", "happy")


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
    defaults={"threshold": 0.05},
    find_flaw=_flaw,
)
