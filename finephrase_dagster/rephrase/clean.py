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
# An announcement is at the beginning, points to what follows, and speaks of the task, of the text that was given, or of
# the form that was asked for: it names them, or it is a reply ("Sure!"). What speaks of the subject is content.
_REPLY = (
    r"(?:(?:sure|certainly|absolutely|of course|okay|ok|alright|great|gladly)(?: thing| then)?\s*[,.!:]\s*"
    r"(?:(?:I|happy|glad)\b[^\n.!:]{0,60}[.!:]\s*)?)"
)
_CAUSE = r"(?:as (?:you )?(?:requested|asked|instructed)|(?:based on|following|per)\b[^\n,.:]{0,60}),\s*"
_POINTING = (
    r"(?:here(?:['’]s|\s+is|\s+are)|below\s+(?:is|are)|(?:the\s+)?following\s+(?:is|are)|(?:please )?find below"
    r"|this is)\b"
)
_MANNER = r"(?:(?:in|with)(?:\s+[\w-]+){1,5}|for (?:beginners|children|kids|a general audience))"
_TEXT = r"(?:text|passage|document|article|excerpt|paragraph|story|content|information|input)"
_FORM = r"(?:tutorial|faqs?|q&a|table(?! of)|(?:word|math) problem|paraphras(?:e|ing)|rephrasing|rewording|rewrite)\b"
_OUTPUT = (  # words that also name things of other subjects, so that nothing may follow them but a manner
    rf"(?:{_TEXT}|version|summary|answers?|response|output|problem|questions?(?:,? and answers?)?|list|explanation"
    r"|discussion|dialogue|conversation|narrative|commentary|translation|continuation|draft|result|solution|guide"
    r"|examples?)"
)
_STYLE = (
    r"(?:more|slightly|much|very|step-by-step|question-and-answer|multiple-choice|\d+|one|two|three|four|five|six|ten|new"
    r"|short|shorter|brief|longer|concise|clearer?|simpler?|simplified|improved|detailed|complete|full|final|possible"
    r"|requested|generated|rewritten|re-?phrased|reworded|paraphrased|revised|edited|polished|condensed|expanded"
    r"|corrected|original|word|math|mathematical|markdown|comprehensive|accessible|readable|friendlier|easy)"
)
_SPEAKS = re.compile(
    "|".join(
        (
            rf"\A\W*(?:(?:an?|the|some|another|your|my) )?(?:{_STYLE}[ ,]+)*(?:{_FORM}"
            rf"|{_OUTPUT}(?:\s+{_MANNER})?\W*\Z)",
            rf"\b(?:of|from|on|about|in|for|using|to|with|(?:re-?)?writ(?:e|ing)|(?:re|para)phras(?:e|ing))\s+"
            rf"(?:(?:the|this|that|your|provided|given|original|source|above)\s+)+(?:{_TEXT}|prompt|request)\b(?!['’])",
            rf"\b{_TEXT},? (?:re-?(?:written|phrased|worded|formatted|structured)|simplified|condensed|presented)\b",
            r"\bI(?:['’](?:ve|d|ll)| have| would| will)? (?:(?:came|come) up|(?:re)?wr(?:i|o)te|written|rephrased?)\b",
            r"(?<!when )\byou(?:['’]ve| have)? (?:asked for|requested|wanted|provided|gave|ordered|sent)\b",
            r"\bmy (?:attempt|take|try|version)\b|\byour (?:request|questions?|text|prompt)\b",
        )
    ),
    re.IGNORECASE,
)
_START = rf"(?P<reply>{_REPLY})?(?:{_CAUSE})?{_POINTING}"
_LINE = re.compile(rf"\s*[*_#>\s]*{_START}(?P<rest>(?:(?![.!?]\s)[^\n]){{0,200}}?):[*_\s]*\n+(?=\s*\S)", re.IGNORECASE)
_INLINE = re.compile(rf"\s*[*_]*{_START}(?P<rest>[^\n.:|]{{0,160}}):[*_]*[ \t]+(?=\S)", re.IGNORECASE)
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
    is_announcement = match and (match["reply"] or _SPEAKS.search(match["rest"]))
    return text[match.end() :] if match and is_announcement else text


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
