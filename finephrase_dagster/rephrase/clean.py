"""Cleaning of completions: a named, versioned set of rules, each of which only takes away.

What a rule removes is wrapping (a thought, an announcement, a fence), never content. Its version
(`CLEANING` in `artifacts/versions.py`) stands in the recipe; raise it with any rule.
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
    """Removes `<think>` blocks, one that never ends, and one whose beginning the chat template wrote."""
    text = _THOUGHT.sub("", text)
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    return text.partition("<think>")[0]


def strip_announcement(text: str) -> str:
    """Removes a first line such as "Here is the table:", or that opening of a line; not if nothing follows."""
    match = _LINE.match(text) or _INLINE.match(text)
    return text[match.end() :] if match else text


def strip_fence(text: str) -> str:
    """Unwraps a completion that is one code fence from end to end."""
    match = _FENCE.fullmatch(text)
    return match["inside"] if match and match[1] not in match["inside"] else text


RULES: Mapping[str, Callable[[str], str]] = {
    "thoughts": strip_thoughts,
    "announcement": strip_announcement,
    "fence": strip_fence,
}


def clean(text: str) -> str:
    """Applies all rules until none changes anything; surrounding white space goes too."""
    while True:
        before = text
        for rule in RULES.values():
            text = rule(text).strip()
        if text == before:
            return text
