"""Completions that talk to the user before or after their content: "Here is a table of ...", "I hope this helps"."""

import re
from collections.abc import Iterator

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_EDGE = 300  # characters at each end in which an announcement is looked for
_PRODUCT = (
    r"(?:versions?|paraphrase|rephrasing|rewrite|rewriting|rewritten|summary|text|passages?|articles?"
    r"|answers?|response|"
    r"output|table|tutorial|guide|problems?|faqs?|q&a|questions?|list|explanation|commentary|comment"
    r"|discussion|dialogue|"
    r"conversation|narrative|story|continuation|paragraphs?|draft|solution|translation|result|example|steps?"
    r"|facts|points|sentence|samples?|description|documentation)"
)
_WORK = (
    r"(?:table|tutorial|faqs?|questions|summary|rewrite|rewritten \w+|paraphrase|article|story|narrative|dialogue"
    r"|version|guide|answers?|solutions?|explanation|overview|breakdown|paragraphs|documentation|translation"
    r"|way to \w+)"
)
_YOURS = (
    r"(?:text|questions?|answers?|requests?|response|prompt|message|task|problem|essay|homework|story|article|writing"
    r"|summary)"
)
_OPENING = r"(?:sure|certainly|absolutely|of course|okay|ok|alright|great|understood|got it|no problem)"
_MAKING = (
    r"(?:written|created|rewritten|rephrased|prepared|generated|compiled|turned|converted|summari[sz]ed|put together"
    r"|improved|made|provided|included|added|tried|done)"
)
_POINTING = (
    r"(?:here(?:'s| is| are)|below (?:is|are)|the following(?: \w+)? (?:is|are)|this is"
    rf"|i(?:'ve| have)(?: just)? {_MAKING})"
)


def _rules(*rules: tuple[str, str]) -> list[tuple[tuple[str, ...], re.Pattern[str]]]:
    """Return rules: an expression, and hints of which one is in every text that it matches, searched for first."""
    return [(tuple(hints.split(";")), re.compile(expression)) for hints, expression in rules]


_POINTING_HINTS = "here;below;following;this is;i've;i have"
_BEFORE = _rules(
    (
        _OPENING[3:-1].replace("|", ";"),
        rf"\A[\W_]*{_OPENING}(?:!| thing\b|[,.:-]+ *(?:here|i |i'|let|below|the following|this is|to ))",
    ),
    (
        _POINTING_HINTS,
        rf"\A[\W_]*(?:{_OPENING}\b[^\n]{{0,60}}?[,.!:] *)?{_POINTING} (?:an? |the |your |my |some |two |\d+ )?"
        rf"(?:[\w'-]+ ){{0,6}}?{_PRODUCT}\b",
    ),
    (
        "here;below",
        r"(?:[.!?,:;][*_\"']*\s+|\n\s*|[(\[>])(?:here(?:'s| is| are)|below (?:is|are)) (?:an? |the |your |my |\d+ )"
        rf"(?:[\w'-]+ ){{0,6}}?(?:{_WORK}\b|{_PRODUCT}\b[^\n.]{{0,80}}:[*_]*\s*(?:\n|\Z))",
    ),
    ("here", r"\A[\W_]*here(?:'s| is) how (?:i|to|you|that|it|this|the)\b|\bhere(?:'s| is) how (?:i|you can solve)\b"),
    ("it seems;it looks;it sounds", r"\A[\W_]*it (?:seems|looks|sounds)(?: like)? you(?:'re| are|r)?\b"),
    (" i", rf"\b{_PRODUCT} (?:that )?i(?:'ve| have)? (?:just )?(?:wrote|{_MAKING[3:]}\b"),
    (
        "great;good;excellent;nice",
        r"\A[\W_]*(?:(?:that's|this is|what you[^\n.]{0,40} is) )?(?:an? )?(?:very )?(?:great|good|excellent|nice)"
        r" (?:start|starting point|job|work|question|effort)\b",
    ),
    (
        "based on",
        r"\A[\W_]*based on (?:the|your) (?:text|passage|document|article|information|content)[^\n,]{0,40},"
        r" (?:here|i |below|the following)",
    ),
    ("let's", r"\A[\W_]*let's (?:start|begin) by (?:reading|rewriting|turning|creating|writing|looking at the text)"),
    (
        "your ",
        rf"(?:\A|[.!?]\s+)[^\n.:|]{{0,30}}\byour (?:[\w-]+ )?{_YOURS}"
        r" (?:is|was|are|has|seems|looks|sounds|provides|shows)\b",
    ),
    ("your ", r"\banswer(?:s|ing)? (?:to )?your questions?\b"),
    ("above;previous", r"\A[^\n.]{0,40}\b(?:above|previous) (?:answers?|response|request|instructions?|prompt)\b"),
    (
        "what a",
        r"\bwhat an? (?:[\w-]+ (?:and [\w-]+ )?)?(?:questions?|task|way|idea|pleasure|story|text|article|topic)\b",
    ),
    (
        "thank",
        r"\bthank(?:s| you) for (?:your (?:question|text|request|answer|message|interest|feedback)"
        r"|sharing|providing)\b",
    ),
    ("sounds;hello;hi there;awesome", r"\A[\W_]*(?:sounds (?:like|good|great)|hello there|hi there|awesome)\b"),
    ("can i ", r"(?:\A|[.!?]\s+)(?:(?:what|how) )?can i (?:do|help|provide|assist|offer)\b"),
    ("i just ", r"\bi just (?:\w+ed|wrote|rewrote|made)\b"),
    ("be ", r"\bi(?:'d| would) be (?:happy|glad|delighted) to"),
    (
        "i'm ;i am ",
        r"\bi(?:'m| am) (?:so |very |really )?(?:happy|glad|excited|sorry (?:for|but|to hear)|ready to help|here to)\b"
        r"|\bi(?:'m| am)(?: now)? (?:an? (?:ai|chatbot|language model)|your (?:assistant|tutor))\b",
    ),
    (
        "i'll ;i will ",
        r"\bi(?:'ll| will)(?: now| just| try to(?: give)?| be happy to)? (?:help you|provide|write|create|rewrite"
        r"|summari[sz]e|convert|explain|answer|give|keep (?:my|the|it)|make sure|do my best"
        r"|start|begin|share|use|walk you)\b",
    ),
    ("i apolog", r"\bi apologi[sz]e\b"),
    ("i hope", r"\bi hope (?:this|you|now)\b[^\n]{0,60}?\b(?:help|find|enjoy|like|inspir)"),
)
_AFTER = _rules(
    (
        "hope ",
        r"\b(?:i )?hope (?:this|that|these|the|you|it|my)\b[^\n]{0,80}?\b(?:help|useful|find|enjoy|meets?|clear|like"
        r"|answer|clarif)",
    ),
    ("let me know", r"\blet me know (?:if|how|what|whether|when)\b"),
    ("feel free", r"\bfeel free to (?:ask|let me|reach out|modify|adjust|tell me)"),
    ("anything", r"\bis there anything (?:else|more)"),
    ("you like;you want", r"\b(?:would|do) you (?:like|want) me to\b"),
    (
        "if you ",
        r"\bif you (?:have|need)[^\n.]{0,60}?,? (?:please )?(?:ask me|let me know|i(?:'m| am) here|feel free)",
    ),
    (
        "to help;to assist",
        r"\bi(?:'m| am| would be|'d be) (?:here|happy|glad|always|ready) (?:here )?to (?:help|assist)",
    ),
    (
        "note",
        r"(?:\A|\n)[\W_]*(?:please )?note(?: that|:)[^\n]{0,30}?\b(?:this|the above|i|i've|i have|above)\b"
        rf"[^\n]{{0,30}}?\b(?:{_PRODUCT}|{_MAKING})\b[^\n]{{0,60}}?"
        r"\b(?:text|original|provided|source|document|passage|prompt|request)",
    ),
    (
        "above;rewritten;revised;improved",
        r"\b(?:the|this) (?:above|rewritten|revised|improved) (?:\w+ )?(?:text|version|table|article|tutorial|list"
        r"|passage) (?:is|was|has|keeps|maintains|retains|covers|provides|includes)",
    ),
    ("luck;happy ", r"\b(?:good luck|happy (?:learning|reading|coding))!\s*\Z"),
)


def _matches(edge: str, rules: list[tuple[tuple[str, ...], re.Pattern[str]]]) -> Iterator[re.Match[str]]:
    """Yield what the rules find."""
    lower = edge.lower().replace("\u2019", "'")
    for hints, pattern in rules:
        if any(hint in lower for hint in hints) and (match := pattern.search(lower)):
            yield match


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    text = row.text.strip()
    for place, rules, edge in (("before", _BEFORE, text[:_EDGE]), ("after", _AFTER, text[-_EDGE:])):
        for match in _matches(edge, rules):
            if not _is_in_source(match.group().strip(), row.source_text):
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
    version=2,
)
