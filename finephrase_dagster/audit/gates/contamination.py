"""Completions that contain questions or answers of the evaluation, and what of that their sources contain already.

DataTrove's decontamination step compares n-grams too, but reads its tasks from lighteval's registry, knows nothing of a
text's source, misses items that are shorter than an n-gram, and takes 20 times as long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

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
from finephrase_dagster.audit.ngrams import HashedWords, slices
from finephrase_dagster.audit.words import Hashes, hash_words, split_words
from finephrase_dagster.study.fields import EMBEDDED

SHORTEST, ALONE = 5, 8  # words of a question that counts with its answer, and of a question or answer that counts alone
_FILTER = np.uint64((1 << 20) - 1)
_PLACES = ("output_only", "source_only", "both")


@dataclass(frozen=True)
class Hit:
    """An item of which a text contains some words."""

    task: str
    item: str
    words: str


@dataclass(frozen=True)
class Phrase:
    """Words that a text must contain in a row; those of a short question count only with one of its answers."""

    task: str
    item: str
    words: list[str]
    answers: Sequence[str] = ()

    def is_in(self, words: Sequence[str], place: int) -> bool:
        """Return whether the phrase begins at a place of a text."""
        if words[place : place + len(self.words)] != self.words:
            return False
        text = f" {' '.join(words)} "
        return not self.answers or any(f" {answer} " in text for answer in self.answers)


class ItemIndex:
    """Finds the items of an evaluation in texts: their n-grams, and all words of short ones.

    Most n-grams of a text are ruled out by the hashes of their first and their last words; the others are looked up.
    """

    def __init__(self, settings: Settings) -> None:
        self._length = max(int(settings["words"]), SHORTEST)
        self._long: dict[str, tuple[str, str]] = {}
        self._short: dict[str, list[Phrase]] = {}
        self.items = 0
        for task, item, question, answers in _items(settings):
            self.items += 1
            for answer in answers:
                words = [*question, *answer]
                for place in range(len(words) - self._length + 1):
                    self._long.setdefault(" ".join(words[place : place + self._length]), (task, item))
            for phrase in _phrases(task, item, question, answers, self._length):
                self._short.setdefault(" ".join(phrase.words[:SHORTEST]), []).append(phrase)
        self._beginnings, self._ends, self._openings = (
            _filter(words)
            for words in (
                [text.split(" ")[:SHORTEST] for text in self._long],
                [text.split(" ")[-SHORTEST:] for text in self._long],
                [text.split(" ") for text in self._short],
            )
        )

    def find(self, texts: Sequence[Sequence[str]], hashed: Sequence[Hashes]) -> list[list[Hit]]:
        """Return the items that each text contains, given as words and as their hashes."""
        hits: list[list[Hit]] = [[] for _ in texts]
        hashes, owners = HashedWords(hashed).ngrams(SHORTEST)
        keys = hashes & _FILTER
        starts = np.searchsorted(owners, np.arange(len(texts)))
        last = len(keys) - (self._length - SHORTEST)
        if last > 0:
            passed = np.flatnonzero(self._beginnings[keys[:last]] & self._ends[keys[len(keys) - last :]])
            for text, place in _places(passed, owners, starts):
                words = " ".join(texts[text][place : place + self._length])
                if words in self._long:
                    hits[text].append(Hit(*self._long[words], words))
        for text, place in _places(np.flatnonzero(self._openings[keys]), owners, starts):
            for phrase in self._short.get(" ".join(texts[text][place : place + SHORTEST]), ()):
                if phrase.is_in(texts[text], place):
                    hits[text].append(Hit(phrase.task, phrase.item, " ".join(phrase.words)))
        return hits


def _places(passed: NDArray[np.intp], owners: NDArray[np.int64], starts: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Yield the text and the place of n-grams that pass a filter."""
    texts = owners[passed]
    yield from zip(texts.tolist(), (passed - starts[texts]).tolist(), strict=True)


def _items(settings: Settings) -> Iterator[tuple[str, str, list[str], list[list[str]]]]:
    """Yield the task, the id, the question and the answers of each item of an evaluation."""
    from finephrase_dagster.evaluate.categories import check_tasks
    from finephrase_dagster.evaluate.reading import ItemsError, row_source
    from finephrase_dagster.evaluate.selection import select
    from finephrase_dagster.evaluate.tasks import benchmarks

    tasks = [task.strip() for task in settings["tasks"].split(",")] if settings["tasks"] else list(benchmarks())
    check_tasks(tasks)
    for task in tasks:
        source = row_source(task, settings["items"] or EMBEDDED)
        try:
            items = select(source, samples=settings["samples"], shots=0).items
        except ItemsError:
            if settings["tasks"]:
                raise
            continue  # a benchmark that nobody has asked for, of which this installation has no items
        for item in items:
            question = item.row.prompt().rpartition("Question:")[2].removesuffix("Answer:")
            yield task, item.row.key(), split_words(question), [split_words(gold) for gold in item.row.golds()]


def _phrases(task: str, item: str, question: list[str], answers: list[list[str]], length: int) -> Iterator[Phrase]:
    """Yield what stands for an item that has fewer words than an n-gram."""
    if ALONE <= len(question) < length:
        yield Phrase(task, item, question)
    elif SHORTEST <= len(question) < ALONE:
        yield Phrase(task, item, question, [" ".join(answer) for answer in answers])
    yield from (Phrase(task, item, answer) for answer in answers if ALONE <= len(answer) < length)


def _filter(ngrams: Sequence[list[str]]) -> NDArray[np.bool_]:
    """Return for the lowest bits of each hash whether an n-gram may have it."""
    hashed = HashedWords([hash_words(words) for words in ngrams])
    chosen = np.zeros(int(_FILTER) + 1, bool)
    chosen[hashed.ngrams(SHORTEST)[0] & _FILTER] = True
    return chosen


class ContaminatedShare(Measure):
    """Counts the completions that contain an item, by task, and whether their sources do."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        super().__init__(dataset, settings)
        self._rows = self._failing = 0
        self._places = Counter[tuple[str, str]]()
        self._examples: list[FailingRow] = []

    @cached_property
    def _index(self) -> ItemIndex:
        return ItemIndex(self.settings)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the index out: it is made faster than sent."""
        return {name: value for name, value in super().__getstate__().items() if name != "_index"}

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        for few in slices(rows):
            found = self._index.find([row.words for row in few], [row.word_hashes for row in few])
            in_sources = self._index.find([row.source_words for row in few], [row.source_word_hashes for row in few])
            for row, hits, source_hits in zip(few, found, in_sources, strict=True):
                if hits or source_hits:
                    self._count({hit.task for hit in hits}, {hit.task for hit in source_hits})
                if hits:
                    self._failing += 1
                    if len(self._examples) < EXAMPLES:
                        self._examples.append(FailingRow(row.id, _reason(hits, source_hits)))

    def _count(self, tasks: set[str], source_tasks: set[str]) -> None:
        for task in tasks | source_tasks:
            place = "both" if task in tasks & source_tasks else "output_only" if task in tasks else "source_only"
            self._places[task, place] += 1
        self._places["any", "output_only" if not source_tasks else "both" if tasks else "source_only"] += 1

    def merge(self, later: Self) -> None:
        self._rows += later._rows
        self._failing += later._failing
        self._places += later._places
        self._examples = [*self._examples, *later._examples][:EXAMPLES]

    def flaw(self, row: AuditedRow) -> str | None:
        texts, hashed = [row.words, row.source_words], [row.word_hashes, row.source_word_hashes]
        hits, source_hits = self._index.find(texts, hashed)
        return _reason(hits, source_hits) if hits else None

    def result(self) -> Measurement:
        tasks = sorted({task for task, _ in self._places})
        places = {task: {place: self._places[task, place] for place in _PLACES} for task in tasks}
        every = places.get("any", dict.fromkeys(_PLACES, 0))
        return Measurement(
            value=self._failing / self._rows if self._rows else 0.0,
            detail=f"{self._failing:,} of {self._rows:,} completions contain one of {self._index.items:,} items of the "
            f"evaluation; so do the sources of {every['both']:,} of them, and {every['source_only']:,} other sources",
            failing=self._failing,
            examples=self._examples,
            figures={"contaminated": places},
        )


def _reason(hits: Sequence[Hit], source_hits: Sequence[Hit]) -> str:
    hit = hits[0]
    known = any((other.task, other.item) == (hit.task, hit.item) for other in source_hits)
    origin = "its source does too" if known else "its source does not"
    return f"contains {hit.words!r} of the item {hit.item} of {hit.task}; {origin}"


GATE = Gate(
    name="contamination",
    sentence="the share of completions that contain questions or answers of the evaluation",
    bound="at most",
    defaults={"threshold": 0.01, "words": 13, "items": None, "tasks": None, "samples": 1000},
    reason="A student that trained on the questions is not measured by them. Web text has a few of them.",
    remedy="Compare `output_only` with `both` in the figures: only the former were added by rephrasing. Drop the rows "
    "that fail, and look at the prompt if there are many.",
    measure=ContaminatedShare,
)
