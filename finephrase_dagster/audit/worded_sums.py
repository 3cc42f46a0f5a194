"""Calculations in English words, such as "seven times eight is fifty-six" or "adding 3 to 4 gives 7", in signs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finephrase_dagster.corpora.quantities import NUMBER_WORDS, in_words, listed

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+"
WORD = r"[A-Za-z\u00b5\u00b0]{2,}|[mglLshk\u00b0](?![A-Za-z])"
_IS = (
    r"(?:is equal to|equals|is|(?:gives|leaves)(?: you| us)?|makes|yields|comes to|adds up to|results in"
    r"|(?:to|we|you) get|=)"
)
_NUMBER_END = rf"(?<=[\d)%])((?: (?:{WORD})){{0,2}})"
_UNITS = rf"(?: ?%| (?:{WORD})){{0,2}}"
_TWO = rf"({NUMBER}){_UNITS} and ({NUMBER}){_UNITS}"
_PHRASES = [
    (re.compile(rf"\b{words},? (?:(?:which|we|you|i) )?{_IS} (?=\d)", re.IGNORECASE), rf"{calculation} = ")
    for words, calculation in (
        (rf"sum of {_TWO}", r"\1 + \2"),
        (rf"product of {_TWO}", r"\1 * \2"),
        (rf"difference (?:of|between) {_TWO}", r"\1 - \2"),
        (rf"quotient of {_TWO}", r"\1 / \2"),
        (rf"add(?:ing|s|ed)? ({NUMBER}){_UNITS} (?:to|and) (?:the )?({NUMBER}){_UNITS}", r"\2 + \1"),
        (
            rf"(?:subtract|deduct|tak)(?:ing|s|ed|e)? ({NUMBER}){_UNITS} (?:away )?from (?:the )?({NUMBER}){_UNITS}",
            r"\2 - \1",
        ),
        (rf"multipl(?:ying|ied|y|ies) ({NUMBER}){_UNITS} (?:by|with|and) ({NUMBER}){_UNITS}", r"\1 * \2"),
        (rf"divid(?:ing|ed|es?) ({NUMBER}){_UNITS} by ({NUMBER}){_UNITS}", r"\1 / \2"),
        (rf"(?:twice|doubling|double) ({NUMBER}){_UNITS}", r"2 * \1"),
    )
]
_OPERATOR_WORDS = [
    (re.compile(rf"{_NUMBER_END} (?:{words}) (?=[(\d])", re.IGNORECASE), rf"\1 {sign} ")
    for words, sign in (("plus|added to", "+"), ("minus", "-"), ("times|multiplied by", "*"), ("divided by", "/"))
]
_EQUALS_WORDS = re.compile(
    rf"((?:{NUMBER})[^=\n.;:?!]{{0,40}}? ?[-+*/] ?[^=\n.;:?!]{{0,30}}?[\d)%](?:"
    rf" (?:{WORD})){{0,2}}?),? (?:which )?{_IS} (?=\d)",
    re.IGNORECASE,
)
_BEGINNINGS = tuple(
    beginning.replace("_", " ")
    for beginning in listed(
        "sum_of product_of difference_of difference_between quotient_of add adds added adding subtract subtracting"
        " deduct deducting take taking multiply multiplying multiplied divide divided dividing twice double doubling"
    )
)
_LONGEST = max(map(len, _BEGINNINGS))
_DIGIT = re.compile(r" \d")
_NUMBERS = frozenset({*NUMBER_WORDS, "zero", "one"})
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_COUNTS = {"one": 1, "a": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_OF = r" of (?:the )?"
_NUMBER = rf"(?:\d|(?:{'|'.join(sorted(_NUMBERS))})\b)"
_PART = re.compile(
    rf"\b(?:({'|'.join(_COUNTS)})[ -])?({'|'.join(_PARTS)})s?{_OF}(?={_NUMBER})",
    re.IGNORECASE,
)
_OPERATIONS = "(?:plus|minus|times|multiplied by|divided by|added to|per ?cent of)"
_SUM = re.compile(
    rf"[a-z] {_OPERATIONS} {_NUMBER}[^.\n]* (?:is|equals|makes|gives|leaves) ",
    re.IGNORECASE,
)
HINT = (
    rf"(?i)(?:half|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?){_OF}{_NUMBER}"
    rf"|[a-z] {_OPERATIONS} {_NUMBER}"
    rf"|(?:{'|'.join(_BEGINNINGS)}) [0-9]"
)
"""A pattern for RE2 that matches every text with such a calculation."""
_SUMS = (
    " percent of ",
    " per cent of ",
    " plus ",
    " minus ",
    " times ",
    " multiplied by ",
    " divided by ",
    " added to ",
)
_PARTS_OF = tuple(f"{part[1:]}{plural} of " for part in _PARTS for plural in ("", "s"))
_LETTERS = re.compile("[a-z]+")


def in_figures(text: str) -> str:
    """Return a text in which calculations are written in digits; others of its numbers stay as they are."""
    if any(part in text for part in _PARTS_OF):
        text = _PART.sub(lambda match: f"{_COUNTS[(match[1] or 'one').lower()]}/{_PARTS[match[2].lower()]} of ", text)
    if any(word in text for word in _SUMS):
        text = "\n".join(_figures(line) if _SUM.search(line) else line for line in text.split("\n"))
    return text


def phrases(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of numbers before which a calculation in words begins, such as "adding 3 to 4"."""
    for match in _DIGIT.finditer(text):
        if text[max(match.start() - _LONGEST, 0) : match.start()].lower().endswith(_BEGINNINGS):
            yield match.span()


def with_signs(line: str) -> str:
    """Return a line with signs in place of the words of its calculations."""
    for pattern, sign in (*_PHRASES, *_OPERATOR_WORDS):
        line = pattern.sub(sign, line)
    return _EQUALS_WORDS.sub(r"\1 = ", line)


def _figures(line: str) -> str:
    spelled = list(in_words(line, _NUMBERS.intersection(_LETTERS.findall(line.lower()))))
    for number in reversed(spelled):
        line = f"{line[: number.start]}{number.values[0]:.12g}{line[number.end :]}"
    return line
