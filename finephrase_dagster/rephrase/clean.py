"""Cleaning of completions: a versioned set of rules that only remove text.

A rule removes what surrounds the content (a thought, an announcement, a fence), never content: a tag in the prose
stays. The version of the set (`CLEANING` in `artifacts/versions.py`) is part of the recipe; raise it with every change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_OPEN_THOUGHT = r"\s*(?:<(think|thinking|thought|reasoning)>|(\[THINK\]))"
_THOUGHT = re.compile(rf"{_OPEN_THOUGHT}.*?(?(1)</\1>|\[/THINK\])", re.DOTALL)
_CHANNEL = re.compile(r"analysis(?=[A-Z]).*?assistantfinal(?=\S)", re.DOTALL)  # gpt-oss without its special tokens
_UNFINISHED = re.compile(_OPEN_THOUGHT)
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


def strip_thought(text: str) -> str:
    """Remove a block of thoughts at the beginning, such as `<think>...</think>`."""
    match = _THOUGHT.match(text) or _CHANNEL.match(text)
    return text[match.end() :] if match else text


def is_unfinished_thought(text: str) -> bool:
    """Return whether a text begins with a thought that does not end."""
    return bool(_UNFINISHED.match(text)) and not _THOUGHT.match(text)


def strip_announcement(text: str) -> str:
    """Remove an announcement such as "Here is the table:" at the beginning, unless nothing follows it."""
    match = _LINE.match(text) or _INLINE.match(text)
    return text[match.end() :] if match else text


def strip_fence(text: str) -> str:
    """Remove the code fence around a completion, if the fence contains all of it."""
    match = _FENCE.fullmatch(text)
    return match["inside"] if match and match[1] not in match["inside"] else text


RULES: Mapping[str, Callable[[str], str]] = {
    "thought": strip_thought,
    "announcement": strip_announcement,
    "fence": strip_fence,
}


def clean(text: str) -> tuple[str, tuple[str, ...]]:
    """Apply all rules until none changes the text, and remove surrounding white space.

    Returns:
        The text, and the names of the rules that removed something.
    """
    text, used = text.strip(), dict[str, None]()
    while True:
        before = text
        for name, rule in RULES.items():
            shorter = rule(text).strip()
            if shorter != text:
                text = shorter
                used[name] = None
        if text == before:
            return text, tuple(used)
