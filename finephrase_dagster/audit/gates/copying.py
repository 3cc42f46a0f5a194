"""Completions that copy their source instead of rephrasing it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

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
from finephrase_dagster.audit.ngrams import SLOTS, HashedWords, shared_places, slices, slots
from finephrase_dagster.audit.words import Hashes

LENGTH = 5  # words of the n-grams; a common span is at least this long
_BINS = 20  # of the histogram of copied words
_QUOTE = 20  # common n-grams of a short completion that quotes one sentence, at most
_UNIT = 1_000_000  # shares are summed as whole millionths, so that the order of the rows does not matter
_OWNER = np.uint64(56)  # above these bits, a key has the index of its row
_RUN = re.compile(b"\x01\x01*")  # searched faster than one that begins with a repetition
_CODE = re.compile(r"^```\w.*?^```", re.DOTALL | re.MULTILINE)


class Overlap(NamedTuple):
    """What a completion shares with its source.

    Attributes:
        common: the number of n-grams that both have. Each counts once, so a loop copies little.
        jaccard: common n-grams as a share of all n-grams of both.
        copied: common n-grams as a share of those of the completion.
        span: the number of words of the longest common span; 0 below `LENGTH`.
    """

    common: int
    jaccard: float
    copied: float
    span: int


NOTHING = Overlap(0, 0.0, 0.0, 0)


def overlaps(rows: Sequence[AuditedRow]) -> list[Overlap]:
    """Return what each of at most 256 rows shares with its source."""
    hashes, owners = HashedWords([row.word_hashes for row in rows]).ngrams(LENGTH)
    source_hashes, source_owners = HashedWords([row.source_word_hashes for row in rows]).ngrams(LENGTH)
    keys, source_keys = _keys(hashes, owners), _keys(source_hashes, source_owners)
    places, source_places = slots(hashes, owners), slots(source_hashes, source_owners)
    known = np.sort(source_keys[_occur_in(source_places, places)])
    is_common = _occur_in(places, source_places)
    is_common[is_common] = among(keys[is_common], known)
    counts = _per_row(_distinct(keys[is_common]), len(rows))
    own = _distinct_per_row(keys, places, len(rows))
    totals = own + _distinct_per_row(source_keys, source_places, len(rows)) - counts
    starts = np.searchsorted(owners, np.arange(len(rows) + 1))
    results = [NOTHING] * len(rows)
    for index in np.flatnonzero(counts):
        hits = is_common[starts[index] : starts[index + 1]].tobytes()
        results[index] = Overlap(
            common=int(counts[index]),
            jaccard=float(counts[index] / totals[index]),
            copied=float(counts[index] / own[index]),
            span=_longest_span(rows[index], [match.span() for match in _RUN.finditer(hits)]),
        )
    return results


def _keys(hashes: Hashes, owners: NDArray[np.int64]) -> Hashes:
    """Return hashes that are equal only within one row."""
    return hashes >> np.uint64(8) | owners.astype(np.uint64) << _OWNER


def _occur_in(places: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which slots are also among others."""
    table = np.zeros(SLOTS, bool)
    table[others] = True
    return table[places]


def among(keys: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Return which keys are among sorted ones."""
    if not len(known):
        return np.zeros(len(keys), bool)
    return known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys


def _distinct(keys: Hashes) -> Hashes:
    keys = np.sort(keys)
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def _distinct_per_row(keys: Hashes, places: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return how many different keys each row has; only those that share their slots may be the same."""
    shared = np.sort(keys[shared_places(places)])
    return _per_row(keys, rows) - _per_row(shared[1:][shared[1:] == shared[:-1]], rows)


def _per_row(keys: Hashes, rows: int) -> NDArray[np.int64]:
    return np.bincount((keys >> _OWNER).astype(np.int64), minlength=rows)


def _longest_span(row: AuditedRow, runs: Sequence[tuple[int, int]]) -> int:
    """Return the length of the longest common span; it lies in a run, but not each run is one."""
    longest = max(end - begin for begin, end in runs) + LENGTH - 1
    words, source = row.words, row.spaced_source

    def is_common(length: int) -> bool:
        return any(
            f" {' '.join(words[place : place + length])} " in source
            for begin, end in runs
            for place in range(begin, end + LENGTH - length)
        )

    if longest == LENGTH or is_common(longest):
        return longest
    return bisect_left(range(longest), True, lo=LENGTH, key=lambda length: not is_common(length)) - 1


class CopiedShare(Measure):
    """Counts the rows that copy their source, and how much all rows take from theirs."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = self._copies = self._jaccard = self._copied = self._longest = 0
        self._bins = [0] * _BINS
        self._examples: list[FailingRow] = []

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        for few in slices(rows):
            for row, overlap in zip(few, overlaps(few), strict=True):
                self._bins[min(int(overlap.copied * _BINS), _BINS - 1)] += 1
                if overlap is NOTHING:
                    continue
                self._jaccard += round(overlap.jaccard * _UNIT)
                self._copied += round(overlap.copied * _UNIT)
                self._longest = max(self._longest, overlap.span)
                if flaw := self._judge(row, overlap):
                    self._copies += 1
                    self._examples = [*self._examples, FailingRow(row.id, flaw)][:EXAMPLES]

    def merge(self, later: Self) -> None:
        self._rows += later._rows
        self._copies += later._copies
        self._jaccard += later._jaccard
        self._copied += later._copied
        self._longest = max(self._longest, later._longest)
        self._bins = [one + other for one, other in zip(self._bins, later._bins, strict=True)]
        self._examples = [*self._examples, *later._examples][:EXAMPLES]

    def flaw(self, row: AuditedRow) -> str | None:
        return self._judge(row, overlaps([row])[0])

    def _judge(self, row: AuditedRow, overlap: Overlap) -> str | None:
        """Return why a row is a copy; blocks of code do not count, since nobody can rephrase them."""
        flaw = self._find(overlap)
        if flaw and "```" in row.text:
            prose = AuditedRow(row.id, _CODE.sub(" ", row.text), source_text=row.source_text)
            flaw = self._find(overlaps([prose])[0])
        return flaw

    def _find(self, overlap: Overlap) -> str | None:
        if overlap.span >= self.settings["span"]:
            return f"copies {overlap.span} words in a row from the source"
        if overlap.jaccard >= self.settings["copied"]:
            return f"almost the same text as the source ({overlap.jaccard:.0%} of both in common)"
        if overlap.copied >= self.settings["copied"] and overlap.common >= _QUOTE:
            return f"{overlap.copied:.0%} of the text is copied from the source"
        return None

    def result(self) -> Measurement:
        rows = self._rows or 1
        return Measurement(
            value=self._copies / rows,
            detail=f"{self._copies:,} of {self._rows:,} completions copy their source; on average "
            f"{self._copied / _UNIT / rows:.1%} of the words are copied",
            failing=self._copies,
            examples=self._examples,
            figures={
                "source_jaccard": self._jaccard / _UNIT / rows,
                "copied_words": self._copied / _UNIT / rows,
                "copied_words_histogram": self._bins,
                "longest_copied_span": self._longest,
            },
        )


GATE = Gate(
    name="copying",
    sentence="the share of completions that copy their source",
    bound="at most",
    reason="A copy adds nothing to its source. Of 464 real outputs of a small model, 25 are copies.",
    remedy="Compare the completions with their sources. Ask for another form or for own words in the prompt, or take "
    "another generator; drop the rows that fail, or train on the source itself.",
    by_row=True,
    defaults={"threshold": 0.05, "copied": 0.35, "span": 60},
    measure=CopiedShare,
    needs=("source_text",),
    blocking=False,
    version=2,
)
