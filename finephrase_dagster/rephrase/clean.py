"""Cleaning of completions: a versioned set of rules that only remove text.

A rule removes what surrounds the content (a thought, an announcement, a fence), never content. The version of the set
(`CLEANING` in `artifacts/versions.py`) is part of the recipe; raise it with every change of a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_OPENING = r"(?:(?:sure|certainly|absolutely|of course|okay|ok|great)\b[^\n:]{0,60}?[,.!:]\s*)?"
_POINTING = r"(?:here(?:['’]s|\s+is|\s+are)|below\s+(?:is|are)|(?:the\s+)?following\s+(?:is|are))\b"
_PRODUCT = (
    r"(?:version|paraphrase|paraphrasing|rephrasing|rewrite|rewriting|summary|text|passage|article|answer|"
    r"response|output|table|tutorial|problem|faq|questions?|list|explanation|discussion|narrative)"
)
_LINE = re.compile(rf"\s*[*_#>\s]*{_OPENING}{_POINTING}[^\n]{{0,200}}?:[*_\s]*\n+(?=\s*\S)", re.IGNORECASE)
_INLINE = re.compile(
    rf"\s*[*_]*{_OPENING}{_POINTING}[^\n.:|]{{0,80}}\b{_PRODUCT}\b[^\n.:|]{{0,80}}:[*_]*[ \t]+(?=\S)", re.IGNORECASE
)
_FENCE = re.compile(r"\s*(`{3,}|~{3,})[\w+-]*[ \t]*\n(?P<inside>.*?)\n?[ \t]*\1\s*", re.DOTALL)


def strip_thoughts(text: str) -> str:
    """Remove `<think>` blocks, also one that never ends, and one that the chat template opened."""
    text = _THOUGHT.sub("", text)
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    return text.partition("<think>")[0]


def strip_announcement(text: str) -> str:
    """Remove an announcement such as "Here is the table:" at the beginning, unless nothing follows it."""
    match = _LINE.match(text) or _INLINE.match(text)
    return text[match.end() :] if match else text


def strip_fence(text: str) -> str:
    """Remove the code fence around a completion, if the fence contains all of it."""
    match = _FENCE.fullmatch(text)
    return match["inside"] if match and match[1] not in match["inside"] else text


RULES: Mapping[str, Callable[[str], str]] = {
    "thoughts": strip_thoughts,
    "announcement": strip_announcement,
    "fence": strip_fence,
}


def clean(text: str) -> str:
    """Apply all rules until none changes the text; also remove surrounding white space."""
    while True:
        before = text
        for rule in RULES.values():
            text = rule(text).strip()
        if text == before:
            return text
