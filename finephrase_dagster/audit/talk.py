"""Sentences in which a generator talks to the user; the rules that find them are in `talk.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import compress
from operator import or_
from pathlib import Path
from typing import NamedTuple

from finephrase_dagster.audit.prefilter import may_match, may_match_rule

_DEFINITION = re.compile(r"(\w+) = (.*)")
_NAME = re.compile(r"<(\w+)>")
_CLASS = re.compile("[A-Z]+")
_SENTENCE = re.compile(r"[^\n.!?|]+[.!?]*")
_LABEL = re.compile(r"\W*(?:[\w.]+ ){0,3}?[\w.]+\W?:\W*\w|\W*(?:\d+\.|\#)|\s*[\"\u201c]|.*\|")
# "Anna: ...", an item, a heading, a quotation, a table
_REPORTED = re.compile(  # "..., he wrote"
    r"[^.!?\n]*[,\"\u201d] (?!i |we )(?:\w+ ){0,2}?"
    r"(?:said|says|wrote|writes|asks|asked|explained|added|began|replied|answered)\b"
)
_LOOKAROUND = re.compile(r"\(\?<?[!=](?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
_UNICODE = re.compile(r"\\u([0-9a-f]{4})")
_NEAR = 3  # sentences at an edge of a text that may be talk
_SHORT = 25  # characters of a sentence that counts together with the next one, such as "Gladly!"


class Rule(NamedTuple):
    """Expressions that a text, or a sentence of it, must all match, and words of which one is in it, searched first."""

    hints: tuple[str, ...]
    expressions: tuple[re.Pattern[str], ...]


@cache
def _rules(kind: str) -> list[Rule]:
    """Return the rules of a section; those of one expression with the same hints are one."""
    definitions: dict[str, str] = {}
    section, rules = "", dict[str, str]()
    for line in (Path(__file__).parent / "talk.txt").read_text("utf-8").splitlines():
        hints, is_rule, expression = line.partition(" :: ")
        if line.startswith("["):
            section = line.strip("[]")
        elif definition := _DEFINITION.fullmatch(line):
            definitions[definition[1]] = _NAME.sub(lambda name: definitions[name[1]], definition[2])
        elif is_rule and section == kind:
            if " & " in expression:
                rules[line] = _CLASS.sub(lambda name: definitions[name[0]], expression.replace("/", "|"))
            else:
                expression = _NAME.sub(lambda name: definitions[name[1]], expression)
                rules[hints] = f"{rules[hints]}|{expression}" if hints in rules else expression
    return [
        Rule(_hints(key.partition(" :: ")[0]), tuple(map(re.compile, expression.split(" & "))))
        for key, expression in rules.items()
    ]


def _hints(words: str) -> tuple[str, ...]:
    return tuple(words.replace("\\n", "\n").split(";"))


@cache
def _conjunctions(kind: str) -> dict[tuple[str, ...], list[tuple[re.Pattern[str], ...]]]:
    """Return the rules of a section of sentences by their hints, which several rules share."""
    groups: dict[tuple[str, ...], list[tuple[re.Pattern[str], ...]]] = {}
    for hints, classes in _rules(f"{kind} sentences"):
        groups.setdefault(hints, []).append(classes)
    return groups


def plain(text: str) -> str:
    """Return a text as the rules expect it."""
    return text.lower().replace("\u2019", "'")


def talk(kind: str, text: str) -> Iterator[re.Match[str]]:
    """Yield what the rules of a section of `talk.txt` find in a plain text."""
    for hints, (expression, *_) in _rules(kind):
        for hint in hints:
            if hint in text:
                if (match := expression.search(text)) and not _REPORTED.match(text, match.end()):
                    yield match
                break


def spoken(kind: str, text: str) -> str | None:
    """Return the first sentence at an edge of a plain text that has all classes of a rule."""
    groups = _conjunctions(kind).items()
    rules = [classes for hints, rules in groups if any(map(text.__contains__, hints)) for classes in rules]
    if not rules:
        return None
    sentences = [match for match in _SENTENCE.finditer(text) if match[0].strip()]
    edge = sentences[-_NEAR:] if kind == "after" else sentences[:_NEAR]
    near = [match[0] for match in edge]
    if kind != "after" and len(near) > 1 and len(near[0]) < _SHORT:
        near.insert(1, text[edge[0].start() : edge[1].end()])
    for sentence in near:
        if any(all(one.search(sentence) for one in rule) for rule in rules) and not (
            _LABEL.match(sentence) or _REPORTED.match(sentence)
        ):
            return sentence.strip()
    return None


def expression(kind: str) -> str:
    """Return a section of `talk.txt` that has no hints as one expression."""
    (rule,) = _rules(kind)
    return rule.expressions[0].pattern


def may_talk(kind: str, texts: Sequence[str]) -> list[bool]:
    """Return for each plain text whether a rule of a section may match it: all at once, in a fraction of the time."""
    alone, rules = _searched(kind)
    matches = may_match(texts, alone)
    some = list(map(or_, matches, may_match(texts, "|".join(dict.fromkeys(f"(?:{first})" for first, *_ in rules)))))
    fulfilled = iter(may_match_rule(list(compress(texts, some)), rules))
    in_sentences = [next(fulfilled) if may else False for may in some]
    return [a or b or not text.isascii() for a, b, text in zip(matches, in_sentences, texts, strict=True)]


@cache
def _searched(kind: str) -> tuple[str, list[list[str]]]:
    """Return an expression and rules for RE2 of which one matches each ASCII text that a rule of a section matches.

    The rules, those of sentences, search a text for the two rarest classes of what must be in one of its sentences.
    """
    alone = "|".join(_for_re2(expression.pattern) for _, (expression, *_) in _rules(kind))
    rules = [[_for_re2(one.pattern) for one in rule[:2]] for group in _conjunctions(kind).values() for rule in group]
    return alone, [
        [one.replace(r"\A", "").replace(r"\z", r"(?:[\n|]|\z)") for one in dict.fromkeys(rule)] for rule in rules
    ]


def _for_re2(pattern: str) -> str:
    """Return a pattern without what RE2 lacks; it matches more."""
    return _UNICODE.sub(r"\\x{\1}", _LOOKAROUND.sub("", pattern)).replace(r"\Z", r"\z")
