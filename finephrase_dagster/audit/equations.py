"""Arithmetic statements in running text, such as "3 boxes × $4 = $12", checked with exact fractions.

A statement that cannot be decided (variables, functions, conversions of units) is left out: what is called wrong is
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

from finephrase_dagster.audit.worded_sums import CANDIDATE as WORDED_CANDIDATE
from finephrase_dagster.audit.worded_sums import HINT as WORDED
from finephrase_dagster.audit.worded_sums import NUMBER as _NUMBER
from finephrase_dagster.audit.worded_sums import WORD as _WORD
from finephrase_dagster.audit.worded_sums import in_figures, phrases, with_signs

_NO_UNIT = r"(?!(?:and|then|so|which|or|but|is|are|in|for|at|as|to|if|with|remainder|rounded|we|he|she|they)\b)"
_UNIT = rf"{_NO_UNIT}(?:{_WORD})(?:[ -]{_NO_UNIT}(?:{_WORD})){{0,2}}(?: ?/ ?(?:{_WORD}))?"
_OPERAND = rf"[(\[ ]*[-+]? ?(?:{_NUMBER})(?: ?%(?! ?[\d(]))?(?: ?(?:{_UNIT}))? *[)\]]*(?: ?\^ ?\d+)?"
_OPERATOR = r" *[-+*/%] *"
_EQUALS = r" *(?:=|\u2248) *"
_SIDE = rf"{_OPERAND}(?:{_OPERATOR}{_OPERAND})*"
_STATEMENT = re.compile(rf"{_SIDE}(?:{_EQUALS}{_SIDE})+")
_TOKEN = re.compile(rf"(?P<number>{_NUMBER})(?P<percent> ?%(?! ?[\d(]))?|(?P<mark>[-+*/%^()\[\]])|(?P<word>{_WORD})")

_PLAIN = [
    (re.compile(pattern, re.IGNORECASE), plain)
    for pattern, plain in (
        (r"<<[^<>\n]*>>", ""),  # what a calculator wrote
        (r"\\%", "%"),
        (r"(?<![\d.,])(\d{1,3}) (?:hours?|hrs?|h),? (?:and )?(\d{1,2}) min(?:ute)?s?\b", r"(\1*60+\2 minutes)"),
        (r"\\(?:d|t)?frac\{([^{}]+)\}\{([^{}]+)\}", r"((\1)/(\2))"),
        (r"\\(?:text|mathrm|textbf|boxed|mathbf)\{([^{}]*)\}", r" \1 "),
        (r"\\(?:times|cdot)|[\u00d7\u00b7\u2219\u2217]", "*"),
        (r"\\div|\u00f7", "/"),
        (
            rf"(?<![\d.,/*+-] )(?<![\d.,/*+-])({_NUMBER}) ?/ ?({_NUMBER}) ?= ?({_NUMBER}),?"
            r" (?:R|rem\.?|(?:with )?(?:an? )?remainder)(?: of)? ?(?=\d)",
            r"\1 = \2 * \3 + ",
        ),
        (rf"([+*/] ?(?:{_NUMBER})) ?[\u2192\u21d2] ?(?=\d)", r"\1 = "),
        (
            r"\\approx|\u2245|\u2243| (?:is|equals|=)? ?(?:approximately|about|roughly|around)"
            r" (?=[$\u20ac\u00a3]?\d)",
            " \u2248 ",
        ),
        (r"\\(?:left|right)(?=[()\[\]])|\\[,;!$ ]|\\[()\[\]]|[$\u20ac\u00a3]|(?<![\d)])\*\*(?=\S)|\*\*(?!\d)|`", ""),
        (r"(?<=[\d)])\*\*(?=[\d(])", "^"),
        (r"[\u2212\u2013]", "-"),
        (r"\u00b2", "^2"),
        (r"\u00b3", "^3"),
        (r"(?<=\d)\u00bd", " 1/2"),
        (r"\u00bd", "1/2"),
        (r"(?<=\d)\u00bc", " 1/4"),
        (r"\u00bc", "1/4"),
        (r"(?<=\d)\u00be", " 3/4"),
        (r"\u00be", "3/4"),
        (r"(?<![\d./])(\d+) (\d+)/(\d+)(?![\d.])", r"(\1+\2/\3)"),
        (r"(?<=[\d)%])( ?)x( ?)(?=[\d(])(?<!0x)", r"\1*\2"),
        (r"(?<=[\d)])\(", "*("),
        (r"(?<=\d) (?:percent|per cent)\b", "%"),
        (r"(%|\d/\d+\)?) of (?:the )?(?=\d)", r"\1 * "),
    )
]
# Few lines have a statement: those with a sign and a calculation, or with words as in "5 plus 3 is 8". Only they are
# read closely.
_OPERATORS = r"[-+*/^%x\u00d7\u00f7\u00b7\u2219\u2212\u2013\\\u00b2\u00b3]"
_CANDIDATE = re.compile(
    rf"[\d\u00bc-\u00be](?:[^\n=\u2248]{{0,30}}?(?:{_OPERATORS}|\}}\{{)[^\n=\u2248]{{0,50}}(?:=|\u2248|approx)"
    rf"|{WORDED_CANDIDATE}| ?(?:%|per ?cent) (?:of|\w+ on) [$\u20ac\u00a3]?\d| ?\u2192"
    r"| ?[-+*/\u00d7\u00f7\u2212] ?\d|\d*\} ?= ?\d|(?<=\u221a\d)\d* ?= ?\d)"
    rf"|[=\u2248] ?[^\n\w]{{0,4}}[\d\u00bc-\u00be][^\n=\u2248]{{0,30}}?{_OPERATORS}[^\n=\u2248]{{0,5}}[\d\u00bc-\u00be]"
)
_SIGN, _DIGIT = r"[-+*/^%x\x{d7}\x{f7}\x{b7}\x{2219}\x{2212}\x{2013}\\\x{b2}\x{b3}]", r"[\p{Nd}\x{bc}-\x{be}]"
HINT = (
    rf"{_DIGIT}(?:[^\n=\x{{2248}}]*(?:{_SIGN}|\}}\{{)[^\n=\x{{2248}}]*(?:=|\x{{2248}}|approx)"
    rf"| ?(?:%|per ?cent) (?:of|[a-z]+ on) [$\x{{20ac}}\x{{a3}}]?{_DIGIT}|[+*/\x{{d7}}] ?{_DIGIT}+ ?\x{{2192}}"
    rf"| ?[-+*/\x{{d7}}\x{{f7}}\x{{2212}}] ?{_DIGIT})|[=\x{{2248}}][^\n]{{0,5}}{_DIGIT}"
    rf"|\x{{221a}}|{WORDED}"
)
"""A pattern for RE2 that matches every text with a statement, and few others."""
_CONTINUED = re.compile(r"(?: *\\\\)?\n&? *=")  # the next line of an aligned calculation
_FIRST = re.compile(r"[\d\u00bc-\u00be=\u2248]")
_END = re.compile(r"\.\s|\n")
_OPEN_BEFORE = re.compile(
    r"(?:[*/^<>_{\\!&|#~\u221a+%]|\d:|[<>!=:+*/-]=|[a-zA-Z\d)] ?-"
    r"|\b(?:log|ln|sin|cos|tan|sqrt|mod|max|min|exp|abs|root(?: of)?|base|lim|[a-z]) ?)\(*$"
)
_OPEN_AFTER = re.compile(
    r" ?(?:[*/^=<>!_]|:\d|[-+] ?\(?[A-Za-z]\b|\(?[A-Za-z]\b(?!['\u2019])(?! [a-z])|[-+*/] ?\()|[A-Za-z\d]"
)
_LOOSE_AFTER = re.compile(
    r"[^\n]{0,40}?\b(?:remainder|rounded|round|rounds|left over|leftover|whole|approximately|about|mod"
    r"|nearest|R ?\d)\b|\.{3}|\u2026"
)
_DENIED = re.compile(  # a statement that the text calls wrong, or that is about other numbers
    r"\b(?:mistake|wrong|incorrect|false|misconception|not true|not equal|binary|octal|hexadecimal|base \w+|modulo"
    r"|mod \d+|integer division|divid\w+ integers|floor\w*|truncat\w+|must not)\b",
    re.IGNORECASE,
)
_CONVERTED = frozenset(
    re.findall(
        r"\w+",
        "second minute hour day week month year decade mm cm m km inch foot feet yard mile g gram kg"
        " kilogram mg oz ounce lb "
        "pound ton tonne ml l liter litre gallon pint cup cent penny pennies dime quarter nickel dollar"
        " dozen s h min sec hr byte KB MB GB TB",
    )
)
_FACTORS = frozenset(
    map(
        Fraction,
        (3, 4, 5, 7, 10, 12, 16, 24, 25, 30, 36, 52, 60, 100, 365, 1000, 1024, 1440, 2000, 3600, 5280, 10**4, 10**6),
    )
)
_POWERS = frozenset(map(Fraction, (10, 100, 1000, 10**4, 10**6)))  # no unit of time is so many of another
_TIMES = frozenset(("second", "minute", "hour", "day", "week", "month", "year", "s", "h", "min", "sec", "hr"))
_EXACT_TIMES = _TIMES - {"month", "year"}
_ROOT = re.compile(r"\\sqrt\{(\d+)\}|\u221a(\d+)(?![\d.,])")
_MOST_POWER = 64
_FLOAT_ERROR = Fraction(1, 10**12)


class Equation(NamedTuple):
    """An arithmetic statement and whether it holds."""

    text: str
    correct: bool


class Side(NamedTuple):
    """One side of a statement: the values that it may have, and what it is made of.

    Attributes:
        values: more than one if a percentage can be read in several ways.
        first: its first number, with which a running total goes on.
        unit: the place value of its last digit, if it is a single number.
        loose_unit: how far a single number may be from what it is rounded from.
    """

    values: tuple[Fraction, ...]
    first: Fraction
    unit: Fraction | None
    loose_unit: Fraction
    words: frozenset[str]
    has_decimals: bool
    is_sum: bool


def equations(text: str) -> Iterator[Equation]:
    """Yield the arithmetic statements of a text that can be decided."""
    text = in_figures(text)
    if "\n=" in text or "\n&" in text:
        text = _CONTINUED.sub(" =", text)
    end = -1
    for candidate, found in sorted([*_candidates(text), *phrases(text)]):
        if found > end:
            start = max(text.rfind("\n", 0, candidate), text.rfind(". ", 0, candidate), end) + 1
            end = next((place.start() for place in _END.finditer(text, found)), len(text))
            plain = _plain(text[start:end])
            for match in _STATEMENT.finditer(plain):
                yield from _judge(plain, match)


def _candidates(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of `_CANDIDATE`: searching its first character alone is many times faster."""
    end = 0
    for first in _FIRST.finditer(text):
        if first.start() >= end and (match := _CANDIDATE.match(text, first.start())):
            end = match.end()
            yield match.span()


def _plain(line: str) -> str:
    """Return a line with mathematical signs in place of LaTeX, typographic signs and words."""
    line = re.sub(r"^\s*(?:[-*\u2022+]|\d+[.)])\s+", "", line)
    line = _ROOT.sub(_square_root, line)
    for pattern, plain in _PLAIN:
        line = pattern.sub(plain, line)
    return with_signs(line)


def _square_root(match: re.Match[str]) -> str:
    """Return the root of a square as a product, so that it counts as calculated; others stay as they are."""
    square = int(match[1] or match[2])
    root = isqrt(square)
    return f"1*{root}" if root * root == square else match[0]


def _judge(line: str, match: re.Match[str]) -> Iterator[Equation]:
    parts = re.split(r"(=|\u2248)", match.group())
    sides = [None if part[-1].isalpha() else _side(part) for part in parts[:-1:2]]  # "3*4 height=5" assigns
    sides.append(_side(parts[-1]))
    if _is_open(line[: match.start()], match.group()):
        sides[0] = None
    after = line[match.start() + len(match.group().rstrip()) :]
    if _OPEN_AFTER.match(after):
        sides[-1] = None
    for place, (left, right) in enumerate(pairwise(sides)):
        if (
            left is None
            or right is None
            or not (_has_operator(parts[2 * place]) or _has_operator(parts[2 * place + 2]))
        ):
            continue
        is_loose = parts[2 * place + 1] != "=" or (right is sides[-1] and bool(_LOOSE_AFTER.match(after)))
        if _equal(left, right, is_loose):
            yield Equation("".join(parts[2 * place : 2 * place + 3]).strip(), True)
        elif not _DENIED.search(line) and not (is_loose and _is_near(left, right)) and not _may_convert(left, right):
            yield Equation("".join(parts[2 * place : 2 * place + 3]).strip(), False)


def _is_open(before: str, statement: str) -> bool:
    """Return whether a statement's first side begins before it, as with a variable or a function."""
    first, side = statement.lstrip(" (["), statement.partition("=")[0]
    if side.count("]") > side.count("["):  # of a list
        return True
    spaced = before.endswith(" ") or statement[0] == " "
    before = before.rstrip(" ")
    if not before or re.search(r"(?<![<>!=:+*/-])=$", before):
        return False
    if first[0] in "+-" and (first[1] == " " or not spaced):
        return before[-1].isalnum() or before[-1] in ")]"
    return (not spaced and (before[-1].isalnum() or before[-1] in "._]")) or bool(_OPEN_BEFORE.search(before))


def _has_operator(part: str) -> bool:
    return bool(re.search(r"[\d)\]%a-zA-Z] *[-+*/^%] *[(\[ ]*[-+]?[\d.]", part))


def _equal(left: Side, right: Side, is_loose: bool) -> bool:
    """Return whether two sides are equal, as exactly as their digits say, or the right one goes on from the"
    " left one."""
    for one, other in ((left, right), (right, left)):
        unit = other.loose_unit if is_loose and other.unit is not None else other.unit
        for a in one.values:
            for b in other.values:
                if abs(a - b) < _FLOAT_ERROR or (unit is not None and (unit < 1 or is_loose) and abs(a - b) < unit):
                    return True
                if one.has_decimals and other.unit == 1 and abs(a - b) * 100 < min(abs(b), Fraction(50)):
                    return True
    return any(_is_close(a, right.first) for a in left.values) and right.unit is None


def _is_near(left: Side, right: Side) -> bool:
    """Return whether one side may be the other one rounded: by 1 %, or to its last digit that is not zero."""
    units = (side.loose_unit for side in (left, right) if side.unit is not None)
    most = max(units, default=Fraction(0))
    return any(
        abs(a - b) < max(most, Fraction(1, 100) * max(abs(a), abs(b))) for a in left.values for b in right.values
    )


def _is_close(a: Fraction, b: Fraction) -> bool:
    return abs(a - b) * 200 <= abs(b)


def _may_convert(left: Side, right: Side) -> bool:
    """Return whether the sides differ by a factor between units of time, length, weight or money."""
    if not (left.words | right.words) & _CONVERTED:
        return False
    factors = _FACTORS - _POWERS if (left.words | right.words) & _CONVERTED <= _TIMES else _FACTORS
    if any(abs(a / b) in factors or abs(b / a) in factors for a in left.values for b in right.values if a and b):
        return True
    ours, theirs = left.words & _CONVERTED, right.words & _CONVERTED
    if ours | theirs <= _EXACT_TIMES and not (left.is_sum or right.is_sum):
        return False  # no conversion gives this
    return bool(ours and theirs and ours.isdisjoint(theirs)) or (left.is_sum and len(ours) > 1)


def _side(text: str) -> Side | None:
    """Return a side of a statement, or None if it cannot be computed."""
    text = re.sub(r"(?<=[a-zA-Z]) ?/ ?(?=[a-zA-Z])", " ", text)  # miles/hour
    tokens = list(_TOKEN.finditer(text))
    numbers = [match["number"] for match in tokens if match["number"]]
    if not numbers:
        return None
    words = frozenset(
        word.lower().removesuffix("s") if len(word) > 2 else word for match in tokens if (word := match["word"])
    )
    if not words.isdisjoint(("am", "pm")):  # a time of the day
        return None
    marks = _balanced([match for match in tokens if not match["word"]])
    values = []
    for reading in ("fraction", "plain", "of") if any(match["percent"] for match in tokens) else ("fraction",):
        try:
            value = _Parser(marks, reading).value()
        except (ValueError, ZeroDivisionError, OverflowError):
            return None
        values.append(value)
    single = len(numbers) == 1 and not _has_operator(text)
    digits = numbers[-1].replace(",", "")
    decimals = len(digits.partition(".")[2])
    unit = Fraction(1, 10**decimals)
    zeros = len(digits) - len(digits.rstrip("0")) if not decimals and digits.strip("0") else 0
    return Side(
        tuple(dict.fromkeys(values)),
        _number(numbers[0]),
        unit if single else None,
        max(unit, min(Fraction(51, 100) * unit * 10**zeros, _number(numbers[-1]) / 5)) if zeros else unit,
        words,
        any("." in number for number in numbers) and not single,
        any(match["mark"] in ("+", "-") for match in marks),
    )


def _balanced(tokens: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """Return tokens without the brackets that have no partner; they belong to the sentence."""
    keep, stack = set(range(len(tokens))), []
    for place, token in enumerate(tokens):
        if token["mark"] in ("(", "["):
            stack.append(place)
        elif token["mark"] in (")", "]"):
            if stack:
                stack.pop()
            else:
                keep.discard(place)
    keep -= set(stack)
    return [token for place, token in enumerate(tokens) if place in keep]


def _number(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


class _Parser:
    """Computes a sum of products of powers, by recursive descent."""

    def __init__(self, tokens: Sequence[re.Match[str]], percent: str) -> None:
        self._tokens, self._percent, self._place = tokens, percent, 0

    def value(self) -> Fraction:
        value = self._sum()
        if self._place != len(self._tokens):
            raise ValueError("tokens are left")
        return value

    def _peek(self) -> str:
        return self._tokens[self._place]["mark"] or "" if self._place < len(self._tokens) else ""

    def _sum(self) -> Fraction:
        value = self._product()
        while (sign := self._peek()) in ("+", "-"):
            self._place += 1
            start = self._place
            term = self._product()
            alone = self._place == start + 1 and bool(self._tokens[start]["percent"])
            if alone and self._percent == "of":  # "50 - 10%" takes off a tenth of what was there
                term = value * term
            value = value + term if sign == "+" else value - term
        return value

    def _product(self) -> Fraction:
        value = self._power()
        while (sign := self._peek()) in ("*", "/", "%"):
            self._place += 1
            factor = self._power()
            value = value * factor if sign == "*" else value / factor if sign == "/" else value % factor
        return value

    def _power(self) -> Fraction:
        base = self._atom()
        if self._peek() == "^":
            self._place += 1
            exponent = self._atom()
            if exponent.denominator != 1 or abs(exponent) > _MOST_POWER:
                raise ValueError("no whole power")
            return base ** int(exponent)
        return base

    def _atom(self) -> Fraction:
        if self._place >= len(self._tokens):
            raise ValueError("a number is missing")
        token = self._tokens[self._place]
        self._place += 1
        if token["number"]:
            value = _number(token["number"])
            return value / 100 if token["percent"] and self._percent != "plain" else value
        if token["mark"] in ("+", "-"):
            value = self._atom()
            return -value if token["mark"] == "-" else value
        if token["mark"] in ("(", "["):
            value = self._sum()
            if self._peek() not in (")", "]"):
                raise ValueError("a bracket is open")
            self._place += 1
            return value
        raise ValueError("no number")


def numbers(text: str) -> set[Fraction]:
    """Return the numbers of a text, without signs and units."""
    return {_number(match) for match in re.findall(_NUMBER, text)}
