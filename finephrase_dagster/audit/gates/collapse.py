"""Completions that begin with the same sentence: the generator fills in a template instead of rephrasing.

One training set of Qwen3 began 115 of 1,000 completions with one sentence, and one of SmolLM2 at most 3, so the
default threshold lies between them. A first sentence that fewer than three completions share is chance.

A template has slots: "In the world of ..., few subjects matter as much as ...". They are looked for in the first
sentences of a sample; see `audit/template.py`. A row fails by its template only if more rows than the threshold
have it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from finephrase_dagster.audit.common_text import CommonShare
from finephrase_dagster.audit.gate import EXAMPLES, AuditedDataset, AuditedRow, FailingRow, Gate, Measurement, Settings
from finephrase_dagster.audit.repetition import repetition
from finephrase_dagster.audit.row_sample import RowSample
from finephrase_dagster.audit.template import Template, templates
from finephrase_dagster.audit.words import split_words
from finephrase_dagster.corpora.column import Column

LENGTHS = range(2, 61, 2)  # characters of the prefixes that are counted
HEAD = 600  # characters among which the first sentence is looked for
FEWEST, FEWEST_OF_QUESTION = 3, 7  # a sentence of fewer words is continued with the next one
_SEPARATOR_ROW = re.compile(r"\n[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)+[ \t:-]*\n")
_END = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]*_]*\s+|(?<=[\u3002\uff01\uff1f])|\n")
_TAG = re.compile(r"<[^<>\n]{1,200}>")
_LISTED = re.compile(r"\W|\d|q(?:uestion)?\b")  # a question of a list: "Q: ...", "1. ...", "**...**"
_WEIGHTS = np.random.default_rng(0).integers(0, 2**64, LENGTHS[-1], np.uint64) | np.uint64(1)


def first_sentence(text: str) -> str:
    """Return the words of a completion's first sentence, in lower case.

    A sentence of one or two words, such as "Sure!" or a heading, is continued with the next one, as is a question of
    at most six words, such as "Q: What is Python?": many different documents raise it. A table's header is
    continued with its first row: tables about different things often have the same columns. HTML tags and the numbers
    of lists are left out, and "#" takes the place of every other number, so that a template with numbers is one.
    """
    return _sentence(_head(text))[0]


def _head(text: str) -> str:
    head = text.lstrip()[:HEAD].lower()
    if "<" in head:
        head = _TAG.sub(" ", head)
    return _SEPARATOR_ROW.sub(" ", head, count=1) if head.startswith("|") else head


def _sentence(head: str) -> tuple[str, bool]:
    """Return the words of the first sentence, and whether it is of a list of questions or a table."""
    words: list[str] = []
    start, fewest, has_none, is_listed = 0, FEWEST, head.startswith("|"), _LISTED.match(head) is not None
    while start < len(head) and len(words) < fewest:
        end = _END.search(head, start)
        stop, after = end.span() if end else (len(head), len(head))
        sentence = split_words(head[start:stop])
        words += sentence if len(sentence) != 1 or not sentence[0].isdigit() else []  # a number of a list
        asks = head[start:stop].rstrip("*_ ").endswith("?")
        fewest, has_none = FEWEST_OF_QUESTION if asks else FEWEST, has_none or (asks and is_listed)
        start = max(after, start + 1)
    return " ".join("#" if word.isdigit() else word for word in words), has_none


class PrefixCurve:
    """Counts the different beginnings of texts, and the most common one, for each of several lengths."""

    def __init__(self) -> None:
        self._hashes = [Column() for _ in LENGTHS]

    def add(self, texts: Sequence[str]) -> None:
        """Add texts."""
        longest = LENGTHS[-1]
        heads = np.array([text[:longest] for text in texts], f"<U{longest}")
        codes = heads.view(np.uint32).reshape(len(texts), longest).astype(np.uint64)
        codes += np.arange(longest) < np.array([len(text) for text in texts])[:, None]  # an end is not a zero byte
        hashes = np.cumsum(codes * _WEIGHTS, axis=1, dtype=np.uint64)
        for length, column in zip(LENGTHS, self._hashes, strict=True):
            column.extend(hashes[:, length - 1])

    def merge(self, later: Self) -> None:
        """Add what was added to another."""
        for column, other in zip(self._hashes, later._hashes, strict=True):
            column.merge(other)

    def points(self) -> dict[str, list[int]]:
        """Return the curve: the lengths, and the distinct prefixes and the count of the most common one at each."""
        curve: dict[str, list[int]] = {"length": list(LENGTHS), "distinct": [], "most_common": []}
        for column in self._hashes:
            sizes = [(len(hashes), int(times.max(initial=0))) for hashes, times in column.counts()]
            curve["distinct"].append(sum(distinct for distinct, _ in sizes))
            curve["most_common"].append(max(most for _, most in sizes))
        return curve


class Collapse(CommonShare):
    """Counts the completions by their first sentence, and measures how much they repeat each other."""

    place = "first sentence"
    fewest = 3

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._curve = PrefixCurve()
        self._sample = RowSample(settings["sampled_rows"])
        self._templates: list[Template] = []

    def part(self, row: AuditedRow) -> str:
        return first_sentence(row.text)

    def add(self, rows: Sequence[AuditedRow]) -> None:
        super().add(rows)
        self._curve.add([row.text for row in rows])
        self._sample.add(rows)

    def merge(self, later: Self) -> None:
        super().merge(later)
        self._curve.merge(later._curve)
        self._sample.merge(later._sample)

    def flaw(self, row: AuditedRow) -> str | None:
        reason = super().flaw(row)
        if reason or not self._templates:
            return reason
        sentence = _framed(row)
        return next((_reason(one) for one in self._templates if one.fits(sentence)), None)

    def _with_templates(self, measured: Measurement, sample: Sequence[AuditedRow]) -> Measurement:
        """Return the measurement with the templates that are common in the sample, and their share of all rows."""
        judged = len(sample) if self._rows > self.settings["sampled_rows"] else self._rows  # with rows without text
        sentences = [_framed(row) for row in sample] + [""] * (judged - len(sample))
        self._templates = templates(sentences, self.settings["threshold"])
        if not self._templates:
            return measured
        first = self._templates[0]
        extra = [row for row in sample if super(Collapse, self).flaw(row) is None and self.flaw(row)]
        examples = [FailingRow(row.id, self.flaw(row) or "") for row in extra[:EXAMPLES]]
        is_most_common = first.share > measured.value
        return replace(
            measured,
            value=max(first.share, measured.value),
            failing=measured.failing + round(len(extra) * self._rows / judged),
            detail=f"{first.share:.1%} of the completions begin with {first.text!r}; {measured.detail}"
            if is_most_common
            else measured.detail,
            examples=[*measured.examples, *examples][:EXAMPLES],
        )

    def result(self) -> Measurement:
        sample = self._sample.rows()
        measured = self._with_templates(super().result(), sample)
        figures: dict[str, Any] = {"prefixes": self._curve.points(), **repetition(sample)}
        self._curve, self._sample = PrefixCurve(), RowSample(0)  # so that `flaw` can be sent to other processes
        return replace(measured, figures={**measured.figures, **figures})


def _framed(row: AuditedRow) -> str:
    """Return the words of the first sentence, if those about different things are not alike anyway.

    Tables, the questions of a list, and word problems ("Problem: Ada has # ...") are.
    """
    sentence, has_none = _sentence(_head(row.text))
    return "" if has_none or (sentence.startswith("problem ") and "#" in sentence) else sentence


def _reason(template: Template) -> str:
    return f"begins with {template.text!r}, as {template.share:.1%} of the completions do"


GATE = Gate(
    name="collapse",
    sentence="the share of completions that begin with the most common first sentence, which at least three must "
    "share, or with one that differs from it only in slots",
    bound="at most",
    defaults={"threshold": 0.05, "common": 0.02, "sampled_rows": 10_000},
    reason="More than one in twenty completions that begin with the same sentence are a template, not a text.",
    remedy="Read the sentence. Change the wording of the prompt, raise the temperature, or take another generator. In "
    "the report, compare how many beginnings differ.",
    measure=Collapse,
    version=4,
)
