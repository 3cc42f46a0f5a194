"""Quantities: numbers in digits and in English words, however they are written.

1,200, 1.2 thousand and "twelve hundred" are one quantity. A number whose separators can be read in two ways, such as
1.200, has two values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple


def listed(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


UNITS = frozenset(
    listed(
        "% percent percentage pct $ dollar dollars usd € euro euros eur £ gbp ¥ yen km kilometer kilometers "
        "kilometre kilometres m meter meters metre metres cm centimeter centimeters centimetre centimetres mm "
        "millimeter millimeters millimetre millimetres mile miles ft foot feet inch inches kg kilogram "
        "kilograms g gram grams mg milligram milligrams ton tons tonne tonnes l liter liters litre litres ml "
        "milliliter milliliters second seconds sec secs minute minutes min mins hour hours hr hrs day days "
        "week weeks month months year years yr yrs kb kilobyte kilobytes mb megabyte megabytes gb gigabyte "
        "gigabytes tb terabyte terabytes hz hertz khz mhz ghz watt watts kw kilowatt kilowatts volt volts "
        "degrees times"
    )
)
"""Words that make a small number in words a quantity, and letters that may follow a number in digits."""

_ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_ORDINALS = listed(
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINAL_TENS = listed("twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth")
_VALUES = {
    word: float(value)
    for words in (
        enumerate(_ONES),
        enumerate(_ORDINALS),
        zip(range(20, 100, 10), _TENS, strict=True),
        zip(range(20, 100, 10), _ORDINAL_TENS, strict=True),
    )
    for value, word in words
    if word != "second"  # mostly the unit
}
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0}
_ATTACHED_SCALES = {"k": 1e3, "mn": 1e6, "m": 1e6, "bn": 1e9, "b": 1e9}
MONTHS = listed("january february march april may june july august september october november december")
_OF_SOURCES = {  # words of a source that allow a number
    **{
        "half": (0.5, 50),
        "halves": (0.5, 50),
        "quarter": (0.25, 25, 4),
        "quarters": (0.25, 25, 75, 4),
        "third": (33, 3),
    },
    **{"thirds": (67, 66), "fifth": (20, 5), "twice": (2,), "double": (2,), "doubled": (2,), "pair": (2,)},
    **{
        "couple": (2,),
        "both": (2,),
        "triple": (3,),
        "tripled": (3,),
        "decade": (10,),
        "decades": (10,),
        "century": (100,),
    },
    **{"fortnight": (14, 2), "ii": (2,), "iii": (3,), "iv": (4,), "vi": (6,), "vii": (7,), "viii": (8,), "ix": (9,)},
    **{"xi": (11,), "xii": (12,), "xiii": (13,), "xiv": (14,), "xv": (15,), "xvi": (16,), "noon": (12,)},
    **{month: (number,) for number, month in enumerate(MONTHS, 1)},
}
LARGE_WORDS = frozenset([*_ONES[13:], *_ORDINALS[13:], *_TENS, *_ORDINAL_TENS, *_SCALES])
"""Number words from thirteen on."""
NUMBER_WORDS = LARGE_WORDS | set(_ONES[2:])
"""The words that begin a quantity: all numbers but zero and one, and ordinals from thirteen on."""
HINT = rf"(?i)[0-9]|\b(?:{'|'.join(sorted(NUMBER_WORDS))})"
"""A pattern for RE2 that matches every text with a quantity of these kinds."""

# Expressions that begin with a single character are searched several times as fast as those that begin with many.
_DIGITS = re.compile(r"[0-9][0-9]*(?:[.,][0-9]+)*(?:[\u00a0\u202f\u2009][0-9]{3}(?![0-9]))*")
_GROUP = re.compile(r"[0-9]+")
_SPACED = re.compile(r"[0-9][0-9]{0,2}(?: [0-9]{3})+\b")
_SCALE = re.compile(rf"(k|mn|m|bn|b)\b|[-\s\u00a0]*({'|'.join(_SCALES)})\b", re.IGNORECASE)
_WORD = "|".join(sorted([*_VALUES, *_SCALES], key=len, reverse=True))
_SPELLED = re.compile(rf"(?:{_WORD})s?(?:(?:[-\s]|(?<=hundred) and |(?<=thousand) and )(?:{_WORD})s?)*\b")
_FOLLOWS_DIGITS = re.compile(r"[0-9][-\s\u00a0]?\Z")
_ALL_WORDS = NUMBER_WORDS | _VALUES.keys() | _OF_SOURCES.keys()
_GAP = re.compile(r"[-\s]+")
_SEPARATOR = re.compile("[.,]")
_SPACE = re.compile("[\u00a0\u202f\u2009]")


class Quantity(NamedTuple):
    """A number in a text.

    Attributes:
        values: its possible values; none for a version such as 3.11.2.
    """

    text: str
    start: int
    end: int
    values: tuple[float, ...]


def digit_strings(text: str) -> list[str]:
    """Return the numbers in digits as they are written."""
    return [match[0] for match in in_digits(text)]


def in_digits(text: str) -> Iterator[re.Match[str]]:
    """Yield the numbers in digits."""
    return _DIGITS.finditer(text) if any(map(text.__contains__, "0123456789")) else iter(())


def quantity(match: re.Match[str]) -> Quantity:
    """Return what a number in digits means, with the scale that follows it."""
    text, values = match[0], readings(match[0])
    if scale := _SCALE.match(match.string, match.end()):
        factor = _ATTACHED_SCALES[scale[1].lower()] if scale[1] else _SCALES[scale[2].lower()]
        scaled = tuple(_plain(value * factor) for value in values)
        values = scaled + values if scale[1] in ("m", "b") else scaled  # 5m may be meters
    return Quantity(text, match.start(), match.end(), values)


def in_words(text: str, words: Iterable[str]) -> Iterator[Quantity]:
    """Yield the numbers in words, of which some of `words` are a part."""
    starts, lower = set[int](), ""
    for word in words:
        lower = lower or text.lower()
        place = lower.find(word)
        while place >= 0:
            if not lower[place - 1 : place].isalnum() or not place:
                starts.add(place)
            place = lower.find(word, place + 1)
    end = 0
    for start in sorted(starts):
        match = _SPELLED.match(lower, start)
        if match and start >= end:
            end = match.end()
            is_scale = match[0].startswith(tuple(_SCALES)) and _FOLLOWS_DIGITS.search(lower, max(start - 3, 0), start)
            if not is_scale:  # as in 1.2 thousand
                yield Quantity(text[start:end], start, end, _spelled(match[0]))


def readings(digits: str) -> tuple[float, ...]:
    """Return the values that a number in digits may have; none for a version or a date such as 3.11.2."""
    if digits.isdigit():
        return (float(digits),)
    first, *groups = _SEPARATOR.split(_SPACE.sub("", digits))
    if not groups:
        return (float(first),)
    mixed = "." in digits and "," in digits
    middle = groups[:-1] if mixed else groups
    thousands = len(first) <= 3 and first != "0" and all(len(group) == 3 for group in middle)
    values = [float("".join([first, *groups]))] if thousands and not mixed else []
    if (len(groups) == 1 and not (values and "," in digits)) or (thousands and mixed):
        values.append(float("".join([first, *groups[:-1]]) + "." + groups[-1]))
    return tuple(values)


def known_values(text: str, words: Iterable[str]) -> set[float]:
    """Return every value that a source states, read as generously as possible."""
    known = set[float]()
    for match in in_digits(text):
        values = quantity(match).values
        known.update(values or map(float, _GROUP.findall(match[0])))
    if known:
        known.update(float(match.replace(" ", "")) for match in _SPACED.findall(text))
    present = _ALL_WORDS.intersection(words)
    for spelled in in_words(text, present - _OF_SOURCES.keys()):
        known.update(spelled.values)
    for word in present & _OF_SOURCES.keys():
        known.update(map(float, _OF_SOURCES[word]))
    return known


def _spelled(words: str) -> tuple[float, ...]:
    total = part = 0.0
    ones = []
    for word in _GAP.split(words):
        singular = word if word in _VALUES or word in _SCALES else word.removesuffix("s")
        if singular in _SCALES:
            part = (part or 1.0) * _SCALES[singular]
            if _SCALES[singular] >= 1000:
                total, part = total + part, 0.0
        elif singular in _VALUES:
            ones.append(_VALUES[singular])
            part += ones[-1]
    values = [_plain(total + part)]
    if not total and len(ones) in (2, 3) and part == sum(ones) and 10 <= ones[0] <= 20 and ones[1] >= 10:
        values.append(100 * ones[0] + sum(ones[1:]))  # nineteen eighty-four
    return tuple(values)


def _plain(value: float) -> float:
    """Return a value to twelve digits, so that equal quantities are equal."""
    return float(f"{value:.12g}")
