"""Calculations in English words, such as "seven times eight is fifty-six" or "half of 40 is 20", in digits."""

from __future__ import annotations

import re

from finephrase_dagster.corpora.quantities import NUMBER_WORDS, in_words

_NUMBERS = frozenset({*NUMBER_WORDS, "zero", "one"})
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_COUNTS = {"one": 1, "a": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_OF = r" of (?:the )?"
_NUMBER = rf"(?:\d|(?:{'|'.join(sorted(_NUMBERS))})\b)"
_PART = re.compile(
    rf"\b(?:({'|'.join(_COUNTS)})[ -])?({'|'.join(_PARTS)})s?{_OF}(?={_NUMBER})",
    re.IGNORECASE,
)
_SUM = re.compile(
    rf"[a-z] (?:plus|minus|times|multiplied by|divided by|added to) {_NUMBER}[^.\n]* (?:is|equals|makes|gives|leaves) ",
    re.IGNORECASE,
)
HINT = (
    rf"(?i)(?:half|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?){_OF}{_NUMBER}"
    rf"|[a-z] (?:plus|minus|times|multiplied by|divided by|added to) {_NUMBER}"
)
"""A pattern for RE2 that matches every text with such a calculation."""
_SUMS = (" plus ", " minus ", " times ", " multiplied by ", " divided by ", " added to ")
_PARTS_OF = tuple(f"{part[1:]}{plural} of " for part in _PARTS for plural in ("", "s"))
_WORD = re.compile("[a-z]+")


def in_figures(text: str) -> str:
    """Return a text in which calculations are written in digits; others of its numbers stay as they are."""
    if any(part in text for part in _PARTS_OF):
        text = _PART.sub(lambda match: f"{_COUNTS[(match[1] or 'one').lower()]}/{_PARTS[match[2].lower()]} of ", text)
    if any(word in text for word in _SUMS):
        text = "\n".join(_figures(line) if _SUM.search(line) else line for line in text.split("\n"))
    return text


def _figures(line: str) -> str:
    spelled = list(in_words(line, _NUMBERS.intersection(_WORD.findall(line.lower()))))
    for number in reversed(spelled):
        line = f"{line[: number.start]}{number.values[0]:.12g}{line[number.end :]}"
    return line
