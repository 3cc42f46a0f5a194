"""Completions that repeat a line, a sentence or a phrase more than their source does, often to the end."""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from operator import eq, sub
from typing import Self

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Gate, Measurement, RowShare, Settings
from finephrase_dagster.audit.joined import Joined, Places
from finephrase_dagster.audit.ngrams import HashedWords, shared_places, slices, slots
from finephrase_dagster.audit.words import Hashes

_LABEL = re.compile(
    r"^(?:[\W_]*(?:\d{1,4}[.):]|[A-Za-z][.):](?=\s+\S)|[-*+#>\u2022]|(?:step|question|answer|q|a)\s*\d*\s*:))+\s*", re.I
)
_RUN_OF_LETTERS = re.compile(r"([^_]{1,12}?)\1{11,}")
_TAIL, _RULES = 60, frozenset("-=_*#~.+^| \n\u2500")  # characters of a rule below a heading
_WIDEST_RULE = 150
_ENDING = 12  # characters at the end of a line
_COUNTED, _LONGEST_PERIOD = 4, 3  # times that lines occur with other numbers, and how many lines occur in turn
_WORD_OF_UNIT = re.compile(r"[^\W\d_]{2,}")
_WORD_OR_BORDER = re.compile(r"\w+(?:['\u2019]\w+)*|\|")
_DIGITS = re.compile(r"[0-9]+")
_SPAN = 4  # words of the sequences that show where a phrase may be repeated
_BREAK, _SPACE, _BYTES = 10, 32, 4  # bytes, and the most that a character has
_ENDS_SENTENCE = np.isin(np.arange(256), list(b".!?"))
_WIDE_SPACES = [list(char.encode()) for char in map(chr, range(128, 1 << 16)) if char.isspace()]
_WIDE_SPACE = np.zeros((256, 256), bool)  # by the first two bytes of such a character
_WIDE_SPACE[[char[0] for char in _WIDE_SPACES], [char[1] for char in _WIDE_SPACES]] = True
_WIDE_SPACE_END = np.isin(np.arange(256), [char[-1] for char in _WIDE_SPACES])
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
_NEVER = np.iinfo(np.int64).max
_LONG = 40  # characters of a line without spaces that counts as long
_FEWEST_WORDS = 4  # of a line or sentence whose repetition counts wherever it is; a shorter one may be a label
_PROSE_ENDS, _PROSE_WORDS = '.!?\u2026"\u201d)', 5
_ONCE = 0.3  # of the text: a single repetition
_SCATTERED = 4  # times that it occurs, apart from a run
_MANY = 24  # times in a row that a number occurs
_SHORT_RUN = 6  # times in a row that a shorter line occurs
_BINS = 20  # of the histogram of compression ratios, compressed by uncompressed size
_SAMPLED = 8  # one row in so many is compressed


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    share = settings["repeated"]
    return (
        _repeated("a line", _unlabelled(row.lines), lambda: row.source_lines, share)
        or _repeated("a sentence", row.sentences, lambda: row.source_sentences, share)
        or _counts_up(row)
        or _repeated_phrase(row)
        or _repeated_letters(row)
    )


def _unlabelled(lines: Sequence[str]) -> Sequence[str]:
    """Return lines without their labels, or as they are if none would be alike without them."""
    if len({line[-_ENDING:] for line in lines}) == len(lines) and not _is_count(lines):
        return lines
    return [line if line[:2].isalpha() and line[:4] != "Step" else _LABEL.sub("", line) for line in lines]


def _repeated(what: str, units: Sequence[str], source: Callable[[], Sequence[str]], share: float) -> str | None:
    """Return which line or sentence is repeated: in a row, often, or so that it makes up much of the text."""
    if len(set(units)) == len(units):
        return None
    counts = {unit: count for unit, count in Counter(units).items() if count > 1}
    own = Counter(unit for unit in source() if unit in counts or _LABEL.sub("", unit) in counts)
    extra = {unit: count - max(own[unit], 1) for unit, count in counts.items() if count > own[unit]}
    for unit, run in ((unit, len(list(group))) for unit, group in groupby(units)):
        if unit in extra and run >= (3 if _is_long(unit) else _SHORT_RUN) and run > own[unit]:
            return f"repeats {what}: {unit[:80]!r}, {run} times in a row{_to_the_end(unit, units)}"
    long = {unit: count for unit, count in extra.items() if _is_long(unit)}
    prose = {unit: count for unit, count in long.items() if unit[-1] in _PROSE_ENDS and unit.count(" ") >= _PROSE_WORDS}
    for repeated, least in ((prose, share), (long, 2 * share)):  # code and lists of links have repeated lines
        unit = max(repeated, key=lambda one: repeated[one] * len(one), default="")
        part = sum(count * len(one) for one, count in repeated.items()) / max(sum(map(len, units)), 1)
        if part >= (least if sum(repeated.values()) > 1 else max(least, _ONCE)) or (
            repeated is prose and repeated.get(unit, 0) >= _SCATTERED - 1 and part >= share / 2
        ):
            return f"repeats {what}: {unit[:80]!r}, {counts[unit]} times{_to_the_end(unit, units)}"
    unit = max(extra, key=lambda one: extra[one], default="")
    if extra and extra[unit] >= _SHORT_RUN and sum(extra.values()) >= 0.5 * len(units):
        return f"repeats {what}: {unit[:80]!r}, {counts[unit]} times{_to_the_end(unit, units)}"
    return None


def _counts_up(row: AuditedRow) -> str | None:
    """Return which lines or sentences are alike but for numbers that go up: "Chapter 3 ...", "Chapter 4 ..."."""
    for units, source in ((row.lines, row.source_lines), (row.sentences, row.source_sentences)):
        plain = _plain(units)
        if len(plain) - len(set(plain)) < _COUNTED - 1:
            continue
        for period in range(1, _LONGEST_PERIOD + 1):
            same = bytes(map(eq, plain, plain[period:]))
            length = max(map(len, same.split(b"\0")))
            start = same.index(b"\1" * length)
            unit = " ".join(plain[start : start + period])
            is_short = length < (_COUNTED - 1) * period or unit.count(" ") < _FEWEST_WORDS
            if is_short or not _has_words(unit) or plain[start] in _plain(source):
                continue
            repeated = units[start : start + length + period]
            if all(_goes_up(repeated[place::period]) for place in range(period)):
                return f"repeats with other numbers: {units[start][:80]!r}, {length // period + 1} times in a row"
    return None


def _has_words(unit: str) -> bool:
    """Return whether a unit is more than numbers, as "9 x 4 = 36" of a multiplication table is."""
    return len(_WORD_OF_UNIT.findall(unit)) > 1


def _plain(units: Sequence[str]) -> list[str]:
    """Return lines or sentences without digits."""
    text = "\n".join(units).encode(errors="surrogatepass").translate(None, b"0123456789")
    return text.decode(errors="surrogatepass").split("\n")


def _goes_up(units: Sequence[str]) -> bool:
    """Return whether each number of some texts goes up, or down, in equal steps."""
    numbers = zip(*(map(int, _DIGITS.findall(unit)) for unit in units), strict=False)
    return all(len(set(map(sub, column[1:], column))) == 1 for column in numbers)


def _is_long(unit: str) -> bool:
    return (unit.count(" ") >= _FEWEST_WORDS - 1 or len(unit) >= _LONG) and any(map(str.isalpha, unit))


def _to_the_end(unit: str, units: Sequence[str]) -> str:
    return " to the end" if unit in units[-3:] else ""


def _is_count(lines: Sequence[str]) -> bool:
    """Return whether the last lines only count: "1.", "2.", "3."."""
    return len(lines) > _SHORT_RUN and all(len(line) < _ENDING for line in lines[-_SHORT_RUN:])


def _repeated_units(texts: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Return which texts may repeat lines, sentences or letters, or count up.

    Units are compared by their last bytes, since the labels of lines do not count. In a text with other white space
    than line breaks and single spaces, anything may be repeated.
    """
    encoded = [text.strip().encode(errors="surrogatepass") for text in texts]
    joined = Joined(encoded)
    data, may_repeat = joined.data, np.zeros(len(texts), bool)
    blanks, lines, sentences = _ends(data)
    may_repeat[joined.owners(_odd_spaces(data, blanks))] = True
    may_repeat[joined.owners(blanks[:-1][np.diff(blanks) > _LONG])] = True
    owners, sizes, keys = _units(joined, sentences)
    again = _earlier(owners, keys + sizes.astype(np.uint64))
    may_repeat[owners[again > 1]] = True
    characters = np.bincount(owners, sizes, len(texts)) - joined.count(np.flatnonzero(data & 0xC0 == 0x80))
    repeated = np.bincount(owners, sizes * (again > 0), len(texts))
    may_repeat |= (repeated > 0) & (repeated >= 0.999 * share * characters)
    owners, sizes, keys = _units(joined, lines)
    may_repeat[owners[_earlier(owners, keys) > 0]] = True
    runs = np.append(0, np.cumsum(sizes < _ENDING * _BYTES))  # lines that only count ("1.", "2.") are short
    last = np.searchsorted(owners, np.arange(len(texts)), "right")
    may_repeat |= (last >= _SHORT_RUN) & (runs[last] - runs[np.maximum(last - _SHORT_RUN, 0)] == _SHORT_RUN)
    numbered = np.flatnonzero(joined.count(np.flatnonzero(data - np.uint8(48) < 10)) >= _COUNTED)
    if len(numbered):
        without = Joined([encoded[place].translate(None, b"0123456789") for place in numbered.tolist()])
        for ends in _ends(without.data)[1:]:
            owners, sizes, keys = _units(without, ends)
            counts = np.bincount(owners[_earlier(owners, keys + sizes.astype(np.uint64)) > 0], minlength=len(numbered))
            may_repeat[numbered[counts >= _COUNTED - 1]] = True
    return may_repeat


def _ends(data: NDArray[np.uint8]) -> tuple[Places, Places, Places]:
    """Return the places of all spaces and line breaks, of line breaks, and of those after a sentence."""
    blanks = np.flatnonzero((data == _BREAK) | (data == _SPACE))
    is_break = data[blanks] == _BREAK
    return blanks, blanks[is_break], blanks[is_break | _ENDS_SENTENCE[data[blanks - 1]]]


def _odd_spaces(data: NDArray[np.uint8], blanks: Places) -> Places:
    """Return where white space is that is no line break and no single space."""
    after = blanks[1:][np.diff(blanks) == 1]
    high = np.flatnonzero(data >= 0xC2)
    high = high[_WIDE_SPACE[data[high], data[high + 1]]]
    is_wide = (data[high + 1] != 0x80) | _WIDE_SPACE_END[data[high + 2]]  # dashes begin with E2 80, too
    is_double = (data[after] == _SPACE) | (data[after - 1] == _SPACE)
    return np.concatenate([after[is_double], high[is_wide], np.flatnonzero((data < _SPACE) & (data != _BREAK))])


def _units(joined: Joined, ends: Places) -> tuple[Places, Places, Hashes]:
    """Return the texts, the sizes and the last eight bytes of what is between some places."""
    begins, ends = ends[:-1] + 1, ends[1:]
    begins, ends = begins[ends > begins], ends[ends > begins]
    keys = np.zeros(len(begins), np.uint64)
    for step in range(1, 9):
        keys = keys << np.uint64(8) | np.where(ends - step >= begins, joined.data[np.maximum(ends - step, 0)], 0)
    return joined.owners(begins), ends - begins, keys


def _earlier(owners: Places, keys: Hashes) -> Places:
    """Return for each of some keys how many of its owner are the same and come before it in some order."""
    keys, places = (keys * _FACTORS[0]) ^ (owners.astype(np.uint64) * _FACTORS[1]), np.arange(len(keys))
    order = np.argsort(keys)
    is_first = np.append(True, np.diff(keys[order]) != 0)[: len(keys)]
    earlier = np.empty_like(places)
    earlier[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return earlier


def _repeated_phrases(rows: Sequence[AuditedRow]) -> NDArray[np.bool_]:
    """Return which of at most 256 rows may have a phrase that is repeated as often as `_repeated_phrase` demands.

    In such a row, the sequences of four words occur again soon at many places one after the other: of a phrase of p
    words that occurs three times, at 2p - 3 places after at most p words.
    """
    spans, owners = HashedWords([row.word_hashes for row in rows]).ngrams(_SPAN)
    shared = shared_places(slots(spans, owners))
    at = shared[np.lexsort((shared, spans[shared]))]
    again = (spans[at[1:]] == spans[at[:-1]]) & (owners[at[1:]] == owners[at[:-1]])
    distances = np.full(len(spans) + 2, _NEVER)  # to the next place with the same words
    distances[1 + at[:-1][again]] = (at[1:] - at[:-1])[again]
    inside = distances < _NEVER
    starts = np.flatnonzero(inside & ~np.roll(inside, 1))
    ends = np.flatnonzero(~inside & np.roll(inside, 1))
    nearest = np.minimum.reduceat(distances, starts) if len(starts) else starts
    repeated = np.zeros(len(rows), bool)
    repeated[owners[starts[2 * nearest <= ends - starts + 3] - 1]] = True
    return repeated


def _repeated_phrase(row: AuditedRow) -> str | None:
    """Return which words follow each other again and again without a break."""
    words = row.words
    # Of three repetitions, two are an even number of words apart: half of the sequences show whether there are any.
    spans = list(zip(words[::2], words[1::2], words[2::2], words[3::2], strict=False))
    last: dict[tuple[str, ...], int] = {}
    distances = set()
    for place, span in enumerate(spans):
        if span in last:
            distances.add(2 * (place - last[span]))
        elif span[0] == span[1] == span[2]:
            distances.add(1)
        last[span] = place
    for period in sorted({period for distance in distances for period in (distance, distance // 2)} - {0}):
        # In a run of three, the words at every period-th place are the same from whichever place on.
        if not all(any(map(eq, words[first::period], words[first + period :: period])) for first in (0, 1)):
            continue
        same = bytes(map(eq, words, words[period:]))
        length = max(map(len, same.split(b"\0")))
        times = length // period + 1
        if times >= (6 if period == 1 else 4 if period < _SPAN else 3):
            place = same.index(b"\1" * length)
            phrase = " ".join(words[place : place + period])
            if (times >= _MANY or _is_wordy(words[place : place + period])) and _is_repetition(phrase, times, row):
                return f"repeats a phrase: {phrase[:80]!r}, {times} times in a row"
    return None


def _is_wordy(phrase: Sequence[str]) -> bool:
    """Return whether a phrase is more than letters and numbers, as a call "f x, y" is; an ideograph is a word."""
    return 2 * sum((len(word) > 1 or not word.isascii()) and not word.isdigit() for word in phrase) >= len(phrase)


def _is_repetition(phrase: str, times: int, row: AuditedRow) -> bool:
    """Return whether a repeated phrase is prose, and not cells of a table or what the source repeats too."""
    if " ".join([phrase] * times) in row.spaced_source:
        return False
    return (
        times >= _MANY
        or "|" not in row.text
        or f"{phrase} {phrase}" in " ".join(" ".join(_WORD_OR_BORDER.findall(line.lower())) for line in row.lines)
    )


def _repeated_letters(row: AuditedRow) -> str | None:
    """Return which letters are repeated within a word."""
    if _ends_in_letters(row.text):
        return f"repeats characters: {row.text[-3:]!r} to the end"
    word = max(row.words, key=len, default="")
    match = _RUN_OF_LETTERS.search(word) if len(word) >= _LONG else None
    if match is None or match.group() in (row.source_text or "").lower():
        return None
    return f"repeats letters: {match[1]!r}, {len(match.group()) // len(match[1])} times in a row"


def _ends_in_letters(text: str) -> bool:
    tail = set(text[-_TAIL:])
    if len(tail) > 3 or len(text) <= _TAIL:
        return False
    return not tail <= _RULES or (len(text) > _WIDEST_RULE and len(set(text[-_WIDEST_RULE:])) <= 3)


class Loops(RowShare):
    """Counts the rows with a loop, and measures how well a sample of the rows compresses."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__("at most", _flaw, dataset, settings)
        self._ratios = [0] * _BINS

    def add(self, rows: Sequence[AuditedRow]) -> None:
        super().add(rows)
        for row in rows:  # compressing takes longer than all else here: the ids decide which rows are in the sample
            if row.text and zlib.crc32(row.id.encode("utf-8", "surrogatepass")) % _SAMPLED == 0:
                text = row.text.encode("utf-8", "surrogatepass")
                self._ratios[min(len(zlib.compress(text, 1)) * _BINS // len(text), _BINS - 1)] += 1

    def may_fail(self, rows: Sequence[AuditedRow]) -> Iterable[bool]:
        for few in slices(rows):
            suspects = _repeated_units([row.text for row in few], self.settings["repeated"]) | _repeated_phrases(few)
            for row, is_suspect in zip(few, suspects.tolist(), strict=True):
                yield is_suspect or _ends_in_letters(row.text)

    def merge(self, later: Self) -> None:
        super().merge(later)
        self._ratios = [one + other for one, other in zip(self._ratios, later._ratios, strict=True)]

    def result(self) -> Measurement:
        measured = super().result()
        return replace(measured, figures={**measured.figures, "compression_histogram": self._ratios})


GATE = Gate(
    name="loops",
    sentence="the share of completions that repeat a line, a sentence or a phrase again and again",
    bound="at most",
    defaults={"threshold": 0.05, "repeated": 0.2},
    reason="A loop teaches a model to repeat itself; one in twenty is already more than a sound generator writes.",
    remedy="Read the examples. Raise the temperature a little, lower `max_tokens`, or take a stronger generator.",
    measure=Loops,
    version=4,
    by_row=True,
)
