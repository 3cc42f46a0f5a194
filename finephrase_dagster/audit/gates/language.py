"""Completions in another language than the wanted one, or than their source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self

from finephrase_dagster.audit.gate import (
    EXAMPLES,
    AuditedDataset,
    AuditedRow,
    FailingRow,
    Gate,
    Measure,
    Measurement,
    Settings,
)
from finephrase_dagster.errors import FinephraseError

Shares = Mapping[str, int]
"""The languages of a text with their shares in percent; empty if the text does not show them, as code and numbers."""

_SOURCE = 400  # characters of a source whose language is detected
_EDGE = 300  # characters at the beginning and at the end of a completion whose language is detected
_LETTERS, _NAMES = 25, 45  # bytes of words that show a language, and of words that are mostly names
_QUOTED = 10  # percent of a source in a language that the completion may then have, too
_PART = 25  # percent of a text in another language, from which the text is partly in it
_CERTAIN = 0.5  # probability of a fastText model's label
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\S*[/\\_@=|{}<>]\S*", re.DOTALL)
_NO_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# Pairs of languages that no detector tells apart in a few sentences.
_ALIKE = {"bs": "hr", "sr": "hr", "sr-ME": "hr", "ms": "id", "nn": "no", "nb": "no", "da": "no", "zh-Hant": "zh"}


class DetectorError(FinephraseError, exit_status=2):
    """The fastText model that a study names cannot be used."""


def detect(text: str, model: str | None = None) -> Shares:
    """Return the languages of a text, by CLD2, which is part of the package pycld2, or by a fastText model's file."""
    if model is not None:
        return _detect_by_model(text, model)
    import pycld2

    try:
        reliable, letters, languages = pycld2.detect(text)[:3]
    except (pycld2.error, UnicodeEncodeError):  # it takes no control characters and no half surrogates
        reliable, letters, languages = pycld2.detect(_NO_CHARACTER.sub(" ", text))[:3]
    if not reliable or letters < _LETTERS or (letters < _NAMES and _is_names(text)):
        return {}
    shares = Counter[str]()
    for _, code, percent, _ in languages:
        if code != "un":
            shares[_ALIKE.get(code, code)] += percent
    return shares


def _is_names(text: str) -> bool:
    words = [word for word in text.split() if word[0].isalpha()]
    return 2 * sum(word[0].isupper() for word in words) > len(words)


def _detect_by_model(text: str, path: str) -> Shares:
    labels, probabilities = _model(path).predict(" ".join(_NO_CHARACTER.sub(" ", text).split()))
    return {labels[0].removeprefix("__label__"): 100} if labels and probabilities[0] >= _CERTAIN else {}


@cache
def _model(path: str) -> Any:
    import fasttext

    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise DetectorError(
            f"language.model: {path} is not the file of a fastText model ({error}); correct the path"
        ) from error


def _edges(text: str) -> str:
    return text if len(text) <= 2 * _EDGE else f"{text[:_EDGE]} {text[-_EDGE:]}"


def _main(shares: Shares) -> str:
    return max(shares, key=lambda one: shares[one], default="")


def _other(shares: Shares, expected: Shares) -> str:
    """Return the language that a text, or much of it, is in, if it is none of the expected ones."""
    known = {language for language, percent in expected.items() if percent >= _QUOTED}
    others = {language: percent for language, percent in shares.items() if language not in known}
    other = _main(others)
    return other if other and (other == _main(shares) or others[other] >= _PART) else ""


class Languages(Measure):
    """Counts the languages of the rows, and the rows whose language is not that of their source.

    For rows whose source shows no language, the setting `language` decides, and without it what most rows have.
    """

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        if settings["model"] is not None:
            _model(settings["model"])
        self._rows = self._wrong = 0
        self._languages = Counter[str]()
        self._unexpected = Counter[str]()  # of rows for which nothing says what is expected
        self._examples: list[FailingRow] = []
        self._by_language: dict[str, list[FailingRow]] = {}

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        for row in rows:
            expected = self._expected(row)
            shares = self._detect(_edges(row.text)) if expected else self._detect_prose(row)
            language = _main(shares)
            self._languages[language or "unknown"] += 1
            if expected:
                if flaw := self._judge(row, shares, expected):
                    self._wrong += 1
                    self._examples = [*self._examples, FailingRow(row.id, flaw)][:EXAMPLES]
            elif language:
                self._unexpected[language] += 1
                first = self._by_language.setdefault(language, [])
                if len(first) < EXAMPLES:
                    first.append(FailingRow(row.id, f"in another language: {language}"))

    def merge(self, later: Self) -> None:
        self._rows += later._rows
        self._wrong += later._wrong
        self._languages += later._languages
        self._unexpected += later._unexpected
        self._examples = [*self._examples, *later._examples][:EXAMPLES]
        for language, rows in later._by_language.items():
            self._by_language[language] = [*self._by_language.get(language, []), *rows][:EXAMPLES]

    def flaw(self, row: AuditedRow) -> str | None:
        if expected := self._expected(row):
            return self._judge(row, self._detect(_edges(row.text)), expected)
        common, language = self._common(), _main(self._detect_prose(row))
        return (
            f"in another language: {language} in place of {common}"
            if language and common not in ("", language)
            else None
        )

    def _detect(self, text: str) -> Shares:
        return detect(text, self.settings["model"])

    def _detect_prose(self, row: AuditedRow) -> Shares:
        """Detect the languages without code, links and names, which show no language."""
        return self._detect(_edges(_NOT_PROSE.sub(" ", row.text)))

    def _expected(self, row: AuditedRow) -> Shares:
        wanted: str | None = self.settings["language"]
        if wanted:
            return {_ALIKE.get(wanted, wanted): 100}
        return self._detect(row.source_text[:_SOURCE]) if row.source_text else {}

    def _common(self) -> str:
        """Return the language that more than half of the rows have for which nothing else says what is expected."""
        language, count = max(self._unexpected.items(), key=lambda one: one[1], default=("", 0))
        return language if count > self._unexpected.total() / 2 else ""

    def _judge(self, row: AuditedRow, shares: Shares, expected: Shares) -> str | None:
        if not _other(shares, expected):
            return None
        if not self.settings["language"]:  # the beginning of a source may be links and names
            expected = self._detect(_NOT_PROSE.sub(" ", row.source_text or "")) or expected
        if language := _other(self._detect_prose(row), expected):
            return f"in another language: {language} in place of {_main(expected)}"
        return None

    def result(self) -> Measurement:
        common = self._common()
        others = [language for language in self._unexpected if common not in ("", language)]
        wrong = self._wrong + sum(self._unexpected[language] for language in others)
        rows = [row for language in sorted(others) for row in self._by_language[language]]
        most = sorted(self._languages.items(), key=lambda one: (-one[1], one[0]))[:20]
        return Measurement(
            value=wrong / self._rows if self._rows else 0.0,
            detail=f"{wrong:,} of {self._rows:,} completions are in another language than expected",
            failing=wrong,
            examples=[*self._examples, *rows][:EXAMPLES],
            figures={"languages": dict(most)},
        )


GATE = Gate(
    name="language",
    sentence="the share of completions in another language than their source, or than the setting `language`",
    bound="at most",
    defaults={"threshold": 0.02, "language": None, "model": None},
    reason="Small models answer in English whatever the source is in; a few rows are quotations and names.",
    remedy="Look at the languages in the figures. Name the language in the prompt, take a generator that knows it, or "
    "set `language` if a translation is wanted.",
    measure=Languages,
    by_row=True,
    version=2,
)
