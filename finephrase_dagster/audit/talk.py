"""Sentences in which a generator talks to the user; the rules that find them are in `talk.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from finephrase_dagster.audit.prefilter import may_match

_DEFINITION = re.compile(r"(\w+) = (.*)")
_NAME = re.compile(r"<(\w+)>")


class Rule(NamedTuple):
    """An expression, and words of which one is in every text that it matches, searched for first."""

    hints: tuple[str, ...]
    expression: re.Pattern[str]


@cache
def _rules() -> dict[str, list[Rule]]:
    """Return the rules by section; those with the same hints are one."""
    definitions: dict[str, str] = {}
    sections: dict[str, dict[str, str]] = {}
    for line in (Path(__file__).parent / "talk.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            rules = sections[line.strip("[]")] = {}
        elif " :: " in line:
            hints, _, expression = line.partition(" :: ")
            expression = _NAME.sub(lambda name: definitions[name[1]], expression)
            rules[hints] = f"{rules[hints]}|{expression}" if hints in rules else expression
        elif definition := _DEFINITION.fullmatch(line):
            definitions[definition[1]] = _NAME.sub(lambda name: definitions[name[1]], definition[2])
    return {
        section: [Rule(tuple(hints.split(";")), re.compile(expression)) for hints, expression in rules.items()]
        for section, rules in sections.items()
    }


def plain(text: str) -> str:
    """Return a text as the rules expect it."""
    return text.lower().replace("\u2019", "'")


def talk(kind: str, text: str) -> Iterator[re.Match[str]]:
    """Yield what the rules of a section of `talk.txt` find in a plain text."""
    for hints, expression in _rules()[kind]:
        for hint in hints:
            if hint in text:
                if match := expression.search(text):
                    yield match
                break


def expression(kind: str) -> str:
    """Return a section of `talk.txt` that has no hints as one expression."""
    (rule,) = _rules()[kind]
    return rule.expression.pattern


def may_talk(kind: str, texts: Sequence[str]) -> list[bool]:
    """Return for each plain text whether a rule of a section may match it: all at once, in a fraction of the time."""
    hints = [hint for rule in _rules()[kind] for hint in rule.hints]
    words, others = ("|".join(one for one in hints if one[0].isalpha() is word) for word in (True, False))
    return may_match(texts, rf"(?:^|[^a-z])(?:{words})|{others}" if others else rf"(?:^|[^a-z])(?:{words})")
