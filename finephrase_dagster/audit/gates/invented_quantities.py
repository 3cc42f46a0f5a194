"""Completions with quantities that their source does not state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from functools import cached_property
from itertools import combinations

from finephrase_dagster.audit.equations import numbers
from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate
from finephrase_dagster.audit.units import Unit, degrees_after, unit_after, unit_or_meters_after
from finephrase_dagster.corpora.quantities import (
    HINT,
    LARGE_WORDS,
    NUMBER_WORDS,
    UNITS,
    Quantity,
    digit_strings,
    in_digits,
    in_words,
    known_values,
    listed,
    quantity,
    readings,
)

_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_ADDRESS = re.compile(r"(?:://|www\.)\S*")
_LABEL = re.compile(
    r"\b(?:step|question|example|part|section|chapter|figure|fig|table|tip|phase|stage|level|method|option|problem|"
    r"exercise|lesson|item|point|rule|reason|no|number|day|week|equation|eq|page|row|column|line|note|scenario|case|task|"
    r"module|unit|volume|round|activity|scene|act|appendix|footnote|principle|strategy|goal|type|group)s?[\s#.(*]{0,3}\Z",
    re.IGNORECASE,
)
_PARTS_OF_TEXT = frozenset(
    listed(
        "ways way steps step reasons reason types type kinds kind parts part main key different important "
        "major things thing examples example points point categories category options option methods method "
        "questions question sections approaches factors aspects components elements features simple basic "
        "common distinct primary essential possible general forms sets tips rules ideas concepts "
        "characteristics principles sentences words stages phases levels facts topics separate areas "
        "properties benefits goals lessons tasks sides terms"
    )
)
_CONNECTIVES = frozenset(listed("of other more such or and to"))
_DETERMINERS = frozenset(listed("the these those all our its their his her my your both any between into in at number"))
_ABOUT = re.compile(
    r"(about|around|nearly|almost|roughly|approximately|over|than|some|to|under|least|[~≈]|just|circa|most)\W*\Z",
    re.IGNORECASE,
)
_SCALED = re.compile(r"\d+\.\d+ (?:thousand|k\b)", re.IGNORECASE)
_LIMITS = frozenset(listed("over than under least most"))
_CHANGE = re.compile(
    r"\b(?:later|earlier|after|before|between|differ\w*|more|less|fewer|longer|shorter|older|younger|higher|lower|aged?|old|"
    r"lasted|span\w*|over|remain\w*|left|gap|increase\w*|decrease\w*|rose|fell|grew|gain\w*|since|period|ago|for|within|"
    r"took|lived|served)\b",
    re.IGNORECASE,
)
_SUM = re.compile(r"\b(?:total\w*|sums?|altogether|combined|together|in all|overall|average|mean)\b", re.IGNORECASE)
_AFFIX = re.compile(r"\b(?:pre|post|mid|late|early|non|sub|circa|since)\W\Z", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d]+")
_HAS_WORD = re.compile(r"\w")
_LAST_WORD = re.compile(r"(\w+)\W*\Z")
_NEXT_WORD = re.compile(r"[-*_ \u00a0]*([A-Za-z]+)")
_ALONE = re.compile(r"\W*[|:]\s*[\w-]+[*.]*\s*(?:\||\n|\Z)")  # in a cell, or as an answer
_PERCENT = re.compile(r"[-\s]?(?:%|percent)", re.IGNORECASE)
_OTHERS = re.compile(r"\b(?:others?|rest|remain\w*|left)\b", re.IGNORECASE)  # before 100 minus a percentage
_CENTURY = re.compile(r"(?:st|nd|rd|th)[-\s]centur", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?!\s)[^.!?\n]*)*")
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_SHARED = 2  # long words that a sentence of a source and one that draws a conclusion from it have in common
_FRACTIONS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "tenth": 10}
_FRACTION = re.compile(rf"[- ]({'|'.join(_FRACTIONS)})s\b")
_AFTERNOON = re.compile(r"(?::\d\d)?\s?p\.?m\b")
_HAS_DIGIT, _HAS_NUMBERS = re.compile(r"\d"), re.compile(r"\d[.,]?[^\d.,].*\d", re.DOTALL)
_COUNTS = range(3, 13)  # of items that a sentence lists
_FEW_IN_SENTENCE = 5  # values of a sentence from which others follow
_ITEMS = re.compile(r"(?:[^,;:()]{2,40}, )+(?:[^,;:()]{2,40} )?(?:and|or) ")
_FEW = 12  # values of a source of which sums and differences are made: of more, almost any number is one
_SUFFIXES = frozenset(listed("st nd rd th s x k m mn bn b am pm bc ad ce bce c f h g l w v a")) | UNITS
_EQUALS = re.compile("[=\u2248]")
_CONSTANTS = frozenset(map(float, (*range(2, 11), 12, 24, 30, 52, 60, 100, 365, 1000)))


class Source:
    """What a row's source states, found out as far as needed."""

    def __init__(self, row: AuditedRow) -> None:
        self.row = row

    @cached_property
    def strings(self) -> frozenset[str]:
        """The numbers in digits as the source writes them."""
        return frozenset(digit_strings(self.row.source_text or ""))

    @cached_property
    def values(self) -> set[float]:
        """The values of the source's quantities."""
        return known_values(self.row.source_text or "", self.row.source_words)

    @cached_property
    def measured(self) -> list[tuple[str, float, Unit | None]]:
        """The numbers with their values and units; those in words only with a unit."""
        text = self.row.source_text or ""
        digits = ((match[0], readings(match[0]), unit_after(text, match.end())) for match in in_digits(text))
        spelled = in_words(text, NUMBER_WORDS.intersection(self.row.source_words))
        words = ((one.text, one.values, measure) for one in spelled if (measure := unit_after(text, one.end)))
        return [(number, values[0], measure) for number, values, measure in (*digits, *words) if values]

    @cached_property
    def temperatures(self) -> list[tuple[float, str]]:
        """The numbers in digits with "c" or "f"."""
        text = self.row.source_text or ""
        pairs = ((readings(match[0]), degrees_after(text, match.end())) for match in in_digits(text))
        return [(values[0], scale) for values, scale in pairs if values and scale]

    @cached_property
    def conclusions(self) -> list[tuple[tuple[set[float], set[float]], str]]:
        """What follows from each sentence with two numbers or fractions, one of them in digits, with the sentence."""
        source = self.row.source_text or ""
        words = NUMBER_WORDS.intersection(self.row.source_words)
        several = _HAS_DIGIT if words or not _FRACTIONS.keys().isdisjoint(self.row.source_words) else _HAS_NUMBERS
        sentences = _SENTENCE.findall(source) if self.strings or words else ()
        numeric = (one for one in sentences if several.search(one) or any(map(one.lower().__contains__, words)))
        return [(_conclusions(one, words), one) for one in numeric]

    @cached_property
    def lists(self) -> list[tuple[str, frozenset[str]]]:
        """The sentences that may list items, each with its long words."""
        sentences = (match[0] for match in _SENTENCE.finditer(self.row.source_text or "") if "," in match[0])
        return [(one, _long_words(one)) for one in sentences if " and " in one or " or " in one]

    @cached_property
    def results(self) -> set[float]:
        """The results that the completion computes correctly from values that are known, and the constants in them."""
        results = set[float]()
        for equation in self.row.equations:
            left, right = (set(map(float, numbers(side))) for side in _EQUALS.split(equation.text, maxsplit=1))
            unknown = left - _CONSTANTS - self.values - results
            if equation.correct and all(value < 1 and value * 100 in self.values for value in unknown):
                results |= left | right
        return results


def find_invented(row: AuditedRow) -> Quantity | None:
    """Return the first quantity of a completion that its source does not state."""
    text, source = row.text, Source(row)
    for pattern, mark in ((_CODE, "`"), (_ADDRESS, "://"), (_ADDRESS, "www.")):
        if mark in text:
            text = pattern.sub(lambda match: " " * len(match[0]), text)
    for match in in_digits(text):
        is_stated = match[0] in source.strings and not _is_changed(text, match, source)
        if match[0] in ("0", "1") or is_stated or _is_label(text, match):
            continue
        candidate = quantity(match)
        if match[0] in source.strings or not _is_known(text, candidate, source):
            return candidate
    for candidate in in_words(text, NUMBER_WORDS.intersection(row.words)):
        is_scale = candidate.text.lower() in row.source_words  # "millions of records" from "2.5 million records"
        if not is_scale and _is_counted(text, candidate) and not _is_known(text, candidate, source):
            return candidate
    return None


def _is_changed(text: str, match: re.Match[str], source: Source) -> bool:
    """Return whether the source has a number with other units of the same kind only, or as other rates."""
    if (measure := unit_after(text, match.end())) is None:
        return False
    kind, size, rate = measure
    stated = [one for number, _, one in source.measured if number == match[0]]
    return bool(stated) and all(
        one is not None and one[0] == kind and (one[1] != size or (rate and one[2] and one[2] != rate))
        for one in stated
    )


def _is_label(text: str, match: re.Match[str]) -> bool:
    """Return whether a number in digits belongs to a name, or numbers a part of the text."""
    start, end = match.span()
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    if before[-1:].isalpha() or before[-1:] in ("_", "#", "^", "\\") or (before[-1:] == "[" and after[:1] == "]"):
        return True
    if before[:1].isalpha() and before[1:] in ("-", "/", ".", "="):
        return not _AFFIX.search(text, max(start - 6, 0), start)
    if after[:1].isalpha() or after[:1] == "_":
        suffix = _LETTERS.match(text, end)
        return suffix is not None and suffix[0].lower() not in _SUFFIXES
    if end - start > 3:
        return False
    following = _NEXT_WORD.match(text, end)
    if end - start <= 2 and following and following[1].lower() in _PARTS_OF_TEXT:  # 5 tips
        return True
    line = text.rfind("\n", 0, start) + 1
    if (after[:1] in (".", ")", ":", "|", "]", "*", "\\") or after == " |") and not after[1:].isdigit():
        return not _HAS_WORD.search(text, line, start) or _LABEL.search(text, max(line, start - 15), start) is not None
    return _LABEL.search(text, max(line, start - 15), start) is not None


def _is_counted(text: str, candidate: Quantity) -> bool:
    """Return whether a number in words states a quantity: large, with a unit, or of no parts of a text."""
    words = re.split(r"[-\s]+", candidate.text.lower())
    after = _NEXT_WORD.match(text, candidate.end)
    following = after[1].lower() if after else ""
    if len(words) == 1 and words[0] not in NUMBER_WORDS:
        return False  # an ordinal, "hundreds"
    alone = _ALONE.match(text, max(candidate.start - 3, 0)) is not None
    if alone or following in UNITS or not LARGE_WORDS.isdisjoint(words):
        return candidate.values[0] > 1
    before = _LAST_WORD.search(text, max(candidate.start - 15, 0), candidate.start)
    if candidate.values[0] <= 2 or (before and before[1].lower() in _DETERMINERS):
        return False
    return bool(following) and following not in _PARTS_OF_TEXT | _CONNECTIVES


def _is_known(text: str, candidate: Quantity, source: Source) -> bool:
    if not candidate.values:
        return candidate.text in (source.row.source_text or "")
    known = source.values
    return (
        not known.isdisjoint(candidate.values)
        or any(_is_rewritten(text, candidate, value, known) for value in candidate.values)
        or _is_derived(text, candidate, known)
        or not source.results.isdisjoint(candidate.values)
        or _is_converted(text, candidate, source)
        or _is_other_scale(text, candidate, source)
        or _follows(text, candidate, source)
    )


def _is_converted(text: str, candidate: Quantity, source: Source) -> bool:
    """Return whether a value is one of the source in another unit, to 1 %."""
    measure = unit_or_meters_after(text, candidate.end)
    values = readings(candidate.text) if candidate.text[0].isdigit() else candidate.values
    if measure is None or not values:
        return False
    value = values[0] * measure.size
    stated = (one * unit.size for _, one, unit in source.measured if unit and unit.kind == measure.kind)
    half = measure.size / 2 if candidate.text.isdigit() else 0.0  # of the last digit
    return any(abs(one - value) <= max(one / 100, min(half, one / 10)) for one in stated)


def _is_other_scale(text: str, candidate: Quantity, source: Source) -> bool:
    """Return whether a temperature is one of the source on the other scale, to a degree."""
    if (scale := degrees_after(text, candidate.end)) is None:
        return False
    stated = [(value, unit) for value, unit in source.temperatures if unit != scale]
    converted = (32 + 1.8 * value if unit == "c" else (value - 32) / 1.8 for value, unit in stated)
    return any(abs(one - candidate.values[0]) <= 1 for one in converted)


def _is_rewritten(text: str, candidate: Quantity, value: float, known: Set[float]) -> bool:
    """Return whether a value is one of the source as a share, a decade, a century, or rounded."""
    after = text[candidate.end : candidate.end + 12].lower()
    is_percent = _PERCENT.match(after) is not None
    if (is_percent and value / 100 in known) or (value < 1 and value * 100 in known):
        return True
    if is_percent and 100 - value in known and _OTHERS.search(text, max(candidate.start - 40, 0), candidate.end + 40):
        return True
    if _AFTERNOON.match(after) and value + 12 in known:
        return True
    if after.startswith("s") and any(one // 10 * 10 in (value, value + 1900) for one in known):
        return True
    if _CENTURY.match(after) and any(1000 <= one <= 2100 and (one - 1) // 100 + 1 == value for one in known):
        return True
    if (part := _FRACTION.match(text, candidate.end)) and value < _FRACTIONS[part[1]]:
        share = value / _FRACTIONS[part[1]]
        if share in known or round(100 * share) in known:
            return True
    decimals = len(candidate.text.partition(".")[2].rstrip("0"))
    if any(one != int(one) and round(one, decimals) == value for one in known):
        return True
    is_scaled = value >= 1000 and _SCALED.match(text, candidate.start) is not None
    about = _ABOUT.search(text, max(candidate.start - 16, 0), candidate.start)
    if value >= 1e5 or is_scaled or (value >= 10 and about):
        digits = f"{value:.0f}"
        step = 10.0 ** (len(digits) - len(digits.rstrip("0")))
        most = max(value / 10, min(step / 2, value / 3)) if about else value / 10
        if about and about[1].lower() in _LIMITS:
            most = value
        return any(abs(one - value) < step and abs(one - value) <= most for one in known)
    return False


def _is_derived(text: str, candidate: Quantity, known: Set[float]) -> bool:
    """Return whether the line offers a value as a sum or difference of two of a source with few values."""
    end = text.find("\n", candidate.end)
    line = text[text.rfind("\n", 0, candidate.start) + 1 : end if end >= 0 else None]
    values = [one for one in known if one > 1]
    years = [one for one in values if 1000 <= one <= 2100]
    some = combinations(values if len(values) <= _FEW else years[:_FEW], 2)
    if any(abs(one - other) in candidate.values for one, other in some) and (
        _CHANGE.search(line) and not _PERCENT.match(text, candidate.end)
    ):
        return True
    value, pairs = candidate.values[0], combinations(values if len(values) <= _FEW else (), 2)
    is_sum = any(value in (one + other, (one + other) / 2) for one, other in pairs)
    return (is_sum or (len(values) <= _FEW and value == sum(values))) and _SUM.search(line) is not None


def _follows(text: str, candidate: Quantity, source: Source) -> bool:
    """Return whether a value follows from one sentence of the source about the same things.

    It is a sum, a difference, a product, a quotient or a percentage of two values of the sentence, or counts the items
    that it lists.
    """
    start = max(text.rfind(mark, 0, candidate.start) for mark in (". ", "\n")) + 1
    about = _SENTENCE.match(text, start)
    is_percent = _PERCENT.match(text, candidate.end) is not None
    if about and _has(_conclusions(about[0], (), source.values), candidate, is_percent):
        return True  # "from 4 to 6, by 50 percent"
    words = _long_words(about[0]) if about else frozenset()
    sentences = [one for values, one in source.conclusions if _has(values, candidate, is_percent)]
    if any(len(words & _long_words(one)) >= _SHARED for one in sentences):
        return True
    lists = source.lists if candidate.values[0] in _COUNTS else ()
    return any(
        len(words & long) >= _SHARED and not _item_counts(one).isdisjoint(candidate.values) for one, long in lists
    )


def _has(conclusions: tuple[set[float], set[float]], candidate: Quantity, is_percent: bool) -> bool:
    values, percentages = conclusions
    return not values.isdisjoint(candidate.values) or (is_percent and not percentages.isdisjoint(candidate.values))


def _item_counts(sentence: str) -> set[int]:
    """Return how many items each list of a sentence has."""
    return {
        match[0].count(",") + (1 if match[0].rstrip().endswith((", and", ", or")) else 2)
        for match in _ITEMS.finditer(sentence)
    }


def _long_words(sentence: str) -> frozenset[str]:
    return frozenset(_LONG_WORD.findall(sentence.lower()))


def _conclusions(sentence: str, words: Iterable[str], known: Set[float] | None = None) -> tuple[set[float], set[float]]:
    """Return the values, and the percentages, that follow from a sentence, or from what of it is known."""
    stated = {one for one in known_values(sentence, ()) if one > 1}
    stated |= {value for one in in_words(sentence, words) for value in one.values}
    if known is not None:
        stated &= known
    conclusions, percentages = set[float](), set[float]()
    for one, other in combinations(stated, 2) if len(stated) <= _FEW_IN_SENTENCE else ():
        if not any(1000 <= year <= 2100 for year in (one, other)):
            conclusions |= {one + other, abs(one - other), one * other, max(one, other) / min(one, other)}
            percentages |= _percentages(min(one, other), max(one, other))
        if _PERCENT.search(sentence):
            part = one * other / 100
            conclusions |= {part, one - part, other - part, one + part, other + part}
    for word in _FRACTIONS.keys() & _LONG_WORD.findall(sentence.lower()):
        conclusions |= {value / _FRACTIONS[word] for value in stated} | {
            value - value / _FRACTIONS[word] for value in stated
        }
    return {float(f"{value:.12g}") for value in conclusions if value > 1}, percentages


def _percentages(less: float, more: float) -> set[float]:
    """Return what percentage one value is of another, and the percentages between them, exact and rounded."""
    exact = (100 * less / more, 100 * (more - less) / more, 100 * (more - less) / less)
    return {value for one in exact for value in (one, float(round(one)), round(one, 1))}


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    if (first := find_invented(row)) is None:
        return None
    excerpt = " ".join(row.text[max(first.start - 30, 0) : first.end + 30].split())
    return f"the source does not state: {first.text} ({excerpt!r})"


GATE = row_gate(
    name="invented_quantities",
    sentence="the share of completions with quantities that their source does not state",
    bound="at most",
    defaults={"threshold": 0.1},
    reason="A reader checks numbers first; in real text that is repeated, cut and reformatted, fewer than 1 in 1,000 "
    "completions are found to invent one.",
    remedy="Read the completions with their sources. Ask for the facts of the document in the prompt, lower the "
    "temperature, or take a larger generator. Set `blocking: true` where numbers must be right.",
    find_flaw=_flaw,
    hint=HINT,
    version=6,
    needs=("source_text",),
    blocking=False,
)
