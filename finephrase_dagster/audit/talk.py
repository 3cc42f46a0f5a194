"""Sentences in which a generator talks to the user; the rules that find them are in `talk.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

_DEFINITION = re.compile(r"(\w+) = (.*)")
_NAME = re.compile(r"<(\w+)>")


class Rule(NamedTuple):
    """An expression, and words of which one is in every text that it matches, searched for first."""

    hints: tuple[str, ...]
    expression: re.Pattern[str]


@cache
def _rules() -> dict[str, list[Rule]]:
    definitions: dict[str, str] = {}
    sections: dict[str, list[Rule]] = {}
    for line in (Path(__file__).parent / "talk.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            rules = sections[line.strip("[]")] = []
        elif " :: " in line:
            hints, _, expression = line.partition(" :: ")
            expression = _NAME.sub(lambda name: definitions[name[1]], expression)
            rules.append(Rule(tuple(hints.split(";")), re.compile(expression)))
        elif definition := _DEFINITION.fullmatch(line):
            definitions[definition[1]] = _NAME.sub(lambda name: definitions[name[1]], definition[2])
    return sections


def plain(text: str) -> str:
    """Return a text as the rules expect it."""
    return text.lower().replace("\u2019", "'")


def talk(kind: str, text: str) -> Iterator[re.Match[str]]:
    """Yield what the rules of a section of `talk.txt` find in a plain text."""
    for hints, expression in _rules()[kind]:
        if any(hint in text for hint in hints) and (match := expression.search(text)):
            yield match
