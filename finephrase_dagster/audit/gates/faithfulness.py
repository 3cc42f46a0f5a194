"""Completions with names and dates that their source does not have, and how much of a source they keep.

A name is found within a sentence, where capital letters mean something: words in capitals after a word without. At the
beginning of a sentence or after a label, several words in capitals are one, or what follows "The", "In" and the like.
Text that writes all nouns so, as German does, shows none. How many quantities of a source its completion states and
how similar both are in meaning is measured on a sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Self

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Gate, Measurement, RowShare, Settings
from finephrase_dagster.audit.row_sample import RowSample
from finephrase_dagster.corpora.quantities import MONTHS, known_values, listed

_CAPITAL = r"(?:[A-Z]['\u2019])?[A-Z\u00c0-\u00de\u0100-\u017f][\w-]+(?!['\u2019\w])"
_NAME = re.compile(rf"{_CAPITAL}(?: (?:(?:of|the|de|del|van|von|da|di|la) )*{_CAPITAL})*")
_WORD = re.compile(_CAPITAL)
_MONTH = "|".join([*MONTHS, *(f"{month[:3]}t?" for month in MONTHS)])
_DATE = re.compile(rf"\b(?:({_MONTH})\.? (\d+)|(\d+)(?:st|nd|rd|th)? (?:of )?({_MONTH})\b)", re.IGNORECASE)
_TITLES = frozenset(("Dr", "Mr", "Mrs", "Ms", "Prof", "St"))
_NO_SENTENCE = re.compile(r"```.*?```|`[^`\n]*`|^[ \t]*[#|][^\n]*", re.DOTALL | re.MULTILINE)
_BEGINS = re.compile('(?:^|\n|[-*.!?:;] |[("\u201c]|[-*.!?] ?\n ?)$')
_GOES_ON = re.compile(r" \(?[a-z]|['\u2019]s |[,)]? *$|[,)] ", re.MULTILINE)
_ACTS = re.compile(r" (?:has|had|says|said|wrote|writes|believes|argues|lives|lived|became|founded|won|told|thinks)\b")
_AGAIN = rf" (?:(?:of|the|de|del|van|von|da|di|la) )*[A-Z\u00c0-\u017f]|[\w-]*{_ACTS.pattern}"
_MORE = re.compile(rf"[\w'\u2019-]+{_AGAIN}")
# Begins with a capital, which is searched faster than what is before it.
_START = re.compile(
    r"[A-Z\u00c0-\u00de\u0100-\u017f](?<=[ \n(\"\u201c].)(?:(?<=[a-z\u00df-\u017f,] .)|(?<=[A-Z][a-z]\. .)|(?<=Mrs\. .)"
    rf"|(?<=Prof\. .)|(?=[\w'\u2019-]*{_AGAIN}))"
)
_COMMON = re.compile(
    r"(?:ing|ion|ment|ness|ity|ism|ware|s|er|or|ance|ence|body|thing|one)$"
)  # endings of ordinary nouns
_STARTERS = frozenset(
    listed(
        "the a an in on at for from with by to of and but or as if when while where since until after before during"
        " according although though because this that these those our their his her its my your most many some all both"
        " each every no not so then than like unlike about under over into through between among within without near"
        " today later however also even only here there what who why how which is are was were do does did can could"
        " author name place city country company by"
    )
)
_NOUNS_IN_CAPITALS = 0.15  # names per word, above which capital letters do not show a name
_STEM = 5  # letters by which Germany and Germans are one
_MONTHS = frozenset([*MONTHS, *(month[:3] for month in MONTHS), "sept"])
_DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_ORDINARY = frozenset(["English", "Internet", *_DAYS, *(month.title() for month in MONTHS)])


def names(row: AuditedRow) -> list[list[str]]:
    """Return the names of a completion, each as its words; none if it writes all nouns in capitals."""
    text = row.text
    if "`" in text or "#" in text or "|" in text:
        text = _NO_SENTENCE.sub(" ", text)
    text = f"\n{text}"
    inner, outer, end = [], [], 0
    for place in _START.finditer(text):
        start = place.start()
        if start < end:
            continue
        before = text[text.rfind(" ", 0, start - 1) + 1 : start - 1].rpartition("\n")[2].removesuffix(",")
        if text[start - 1] == " " and ((before.isalpha() and before.islower()) or before.rstrip(".") in _TITLES):
            if match := _NAME.match(text, start):
                inner.append(_WORD.findall(match[0]))
                end = match.end()
        elif _MORE.match(text, start) and _BEGINS.search(text, max(start - 3, 0), start):
            match = _NAME.match(text, start)
            if match is None:
                continue
            words, end = _WORD.findall(match[0]), match.end()
            rest = words[words[0].lower() in _STARTERS :]
            acts = len(words) > 1 or (_ACTS.match(text, end) and not _COMMON.search(match[0]))
            if rest and (len(rest) < len(words) or (acts and _GOES_ON.match(text, end))):
                outer.append(rest)
    if len(inner) > max(_NOUNS_IN_CAPITALS * len(row.words), 3):
        return []
    return [name for name in (*inner, *outer) if len(name) > 1 or (len(name[0]) > 3 and name[0] not in _TITLES)]


def _unknown(row: AuditedRow) -> Iterator[str]:
    """Yield the names and dates of a completion that its source does not have."""
    source, known = "", row.spaced_source
    for name in names(row):
        source = source or (row.source_text or "").lower()
        if _ORDINARY.isdisjoint(name) and not any(word.lower() in source for word in name):
            stems = (word.lower()[:_STEM] for word in name)
            if not any(f" {stem}{'' if len(stem) == _STEM else ' '}" in known for stem in stems):
                yield " ".join(name)
    for match in _DATE.finditer(row.text) if _may_have_date(row) else ():
        source = source or (row.source_text or "").lower()
        month, day = (match[1] or match[4]).lower(), (match[2] or match[3]).lstrip("0")
        number = next(number for number, name in enumerate(MONTHS, 1) if name.startswith(month[:3]))
        has_month = re.search(
            rf"\b(?:{MONTHS[number - 1]}|{month[:3]}t?)\b|(?<!\d)0?{number}[-/.]\d|\d[-/.]0?{number}(?!\d)", source
        )
        if not has_month or (len(day) < 3 and not re.search(rf"(?<!\d)0?{day}(?!\d)", source)):
            yield match[0]


def _may_have_date(row: AuditedRow) -> bool:
    """Return whether a digit is close to a month."""
    present = _MONTHS.intersection(row.words)
    lower = row.text.lower() if present else ""
    for month in present:
        place = lower.find(month)
        while place >= 0:
            if any(map(str.isdigit, lower[max(place - 7, 0) : place + len(month) + 4])):
                return True
            place = lower.find(month, place + 1)
    return False


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    first = next(_unknown(row), None)
    return f"not in the source: {first}" if first else None


class Faithfulness(RowShare):
    """Counts the rows with an unknown name or date, and keeps a sample to compare with its sources."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__("at most", _flaw, dataset, settings)
        self._sample = RowSample(settings["sampled_rows"], sources=True)

    def add(self, rows: Sequence[AuditedRow]) -> None:
        super().add(rows)
        self._sample.add(rows)

    def merge(self, later: Self) -> None:
        super().merge(later)
        self._sample.merge(later._sample)

    def result(self) -> Measurement:
        measured, rows = super().result(), [row for row in self._sample.rows() if row.source_text]
        self._sample = RowSample(0)
        coverage = [share for row in rows if (share := _coverage(row)) is not None]
        figures: dict[str, Any] = {"quantity_coverage": fmean(coverage) if coverage else None}
        if self.settings["model"]:
            figures |= _similarity(rows, self.settings["model"])
        return replace(measured, figures={**measured.figures, **figures})


def _coverage(row: AuditedRow) -> float | None:
    """Return the share of the source's quantities that a completion states; None if there are none."""
    of_source = {value for value in known_values(row.source_text or "", ()) if value > 1}
    stated = known_values(row.text, row.words)
    return len(of_source & stated) / len(of_source) if of_source else None


def _similarity(rows: Sequence[AuditedRow], model: str) -> dict[str, Any]:
    from finephrase_dagster.audit.embedding import Embedder

    embedder = Embedder(model)
    outputs, sources = (
        embedder.embed([row.text for row in rows]),
        embedder.embed([row.source_text or "" for row in rows]),
    )
    similar = (outputs * sources).sum(axis=1).tolist()
    return {"model": model, "source_similarity": fmean(similar) if similar else None}


GATE = Gate(
    name="faithfulness",
    sentence="the share of completions with a name or a date that their source does not have",
    bound="at most",
    defaults={"threshold": 0.25, "model": None, "sampled_rows": 2_000},
    reason="A name that the source lacks may be common knowledge, or an invention. Of 240 real outputs of a small "
    "model one in eight has one.",
    remedy="Read the completions with their sources. Ask in the prompt for what the document says and nothing else, "
    "lower the temperature, or take a larger generator.",
    measure=Faithfulness,
    needs=("source_text",),
    blocking=False,
    by_row=True,
    version=4,
)
