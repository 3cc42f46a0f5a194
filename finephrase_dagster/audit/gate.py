"""A gate: a rule that a synthetic dataset must pass before a mixture may train on it.

Each gate is one file in `audit/gates/`; `finephrase_dagster.audit.gates.gates()` finds it there. A gate measures a
dataset chunk by chunk, so that no dataset has to fit into memory. This module stays cheap to import: the study file's
schema, the asset checks and the documentation read names, sentences and default settings from the gates.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from finephrase_dagster.audit.prefilter import may_match
from finephrase_dagster.audit.words import Hashes, hash_words, split_words
from finephrase_dagster.corpora.ids import short_hash

if TYPE_CHECKING:
    from finephrase_dagster.audit.equations import Equation

Bound = Literal["at least", "at most"]
Need = Literal["manifest", "check", "finish_reason", "source_text", "model", "drop_rows"]
Settings = Mapping[str, Any]

EXAMPLES = 3
EXCERPT = 240  # characters of a completion in an example
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class AuditedRow:
    """One completion of a dataset, with what several gates need of it, computed once.

    Attributes:
        source_text: the document that it was made from, if the dataset offers it.
    """

    id: str
    text: str
    finish_reason: str | None = None
    source_text: str | None = None

    @cached_property
    def id_hash(self) -> int:
        """The hash of the id; see `short_hash`."""
        return short_hash(self.id)

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without surrounding white space."""
        return _lines(self.text)

    @cached_property
    def sentences(self) -> list[str]:
        """The sentences; a line ends a sentence."""
        return _sentences(self.lines)

    @cached_property
    def words(self) -> list[str]:
        """The words in lower case, without punctuation; see `split_words`."""
        return split_words(self.text)

    @cached_property
    def source_lines(self) -> list[str]:
        """As `lines`, of the source; empty without one."""
        return _lines(self.source_text or "")

    @cached_property
    def source_sentences(self) -> list[str]:
        """As `sentences`, of the source."""
        return _sentences(self.source_lines)

    @cached_property
    def source_words(self) -> list[str]:
        """As `words`, of the source."""
        return split_words(self.source_text or "")

    @cached_property
    def spaced_source(self) -> str:
        """The words of the source with spaces around them, in which other words are quickly found."""
        return f" {' '.join(self.source_words)} "

    @cached_property
    def equations(self) -> Sequence[Equation]:
        """The arithmetic statements; see `audit/equations.py`."""
        from finephrase_dagster.audit.equations import equations

        return list(equations(self.text))

    @cached_property
    def word_hashes(self) -> Hashes:
        """The hashes of the words; see `hash_words`."""
        return hash_words(self.words)

    @cached_property
    def source_word_hashes(self) -> Hashes:
        """As `word_hashes`, of the source."""
        return hash_words(self.source_words)


class FailingRow(NamedTuple):
    """A row that fails a gate: its id, the reason, and the beginning of its text where it is an example."""

    id: str
    reason: str
    text: str = ""


@dataclass(kw_only=True)
class AuditedDataset:
    """What is known about a dataset, apart from its rows.

    Attributes:
        files: its data files, each as one span (`audit/span.py`).
        manifest: the content of its manifest; None for a bare file.
        rejected: iterates over the rows of `rejected.parquet` (`id`, `status`, `reason`), any number of times.
        ids: iterates over the ids of all rows, for a gate that needs them again.
        problems: where the files differ from the manifest; complete after the last chunk was read.
        check: the form that its completions must have; see `audit/forms.py`.
        offers: which of the gates' needs it meets.
        rows, left_out: its completions, and those of them that no student is trained on; see `Audit.leave_out`.
    """

    files: Sequence[Any]
    manifest: Mapping[str, Any] | None = None
    rejected: Iterable[Mapping[str, Any]] = ()
    ids: Iterable[str] = ()
    problems: list[str] = field(default_factory=list)
    check: str | None = None
    offers: frozenset[Need] = frozenset()
    rows: int = 0
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A gate's value for one dataset.

    Attributes:
        detail: one sentence for people.
        figures: further results for people by name, as JSON values: numbers, and lists for curves and histograms.
    """

    value: float
    detail: str
    failing: int = 0
    examples: Sequence[FailingRow] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


class Measure(ABC):
    """Computes one gate's value over a dataset that is read in chunks, by one process or several.

    Several processes each read a part of the rows; their measures are pickled and merged, in the order of the rows. The
    result is the same for any number of processes. Memory does not grow with the number of rows.
    """

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        self.dataset = dataset
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        """Leave the dataset out: what is merged into does not need the other's."""
        return {name: value for name, value in vars(self).items() if name != "dataset"}

    @abstractmethod
    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Take in the next rows."""

    @abstractmethod
    def merge(self, later: Self) -> None:
        """Take in what another process measured of later rows."""

    def failing_others(self) -> Iterable[FailingRow]:
        """Return what fails and is no completion, such as a document without one; called after `result`."""
        return ()

    @abstractmethod
    def result(self) -> Measurement:
        """Return the measurement; called once, after the last chunk."""

    def flaw(self, row: AuditedRow) -> str | None:
        """Return why a row fails the gate, or None; called after `result`, for any row, in any order."""
        return None

    def may_fail(self, rows: Sequence[AuditedRow]) -> Iterable[bool]:
        """Return for each row whether it may have a flaw: a quick test before `flaw`, which passes a few rows more."""
        return repeat(True, len(rows))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate's name, meaning and settings, and how to measure it.

    Attributes:
        sentence: what the value is, for people.
        bound: whether the value must be at least or at most the setting `threshold`.
        defaults: every setting with its default: a number, true or false, a text or None; always has `threshold`.
        forms: defaults that differ for the completions of a form (a prompt's `check`), by the form.
        measure: makes the `Measure` of one dataset.
        blocking: whether a dataset that fails it may not be trained on, unless a study sets `blocking`.
        reason: why the default threshold is what it is; one sentence.
        remedy: what to do about a dataset that fails; one or two sentences.
        needs: what the dataset must offer, and "model" if the setting `model` must name one; without it the gate is
            skipped.
        recorded: whether it is only recorded: it always passes, and no study can make it block.
        by_row: whether `flaw` decides for a row alone; it may then be called on a measure that was given no rows, with
            all settings but `threshold`. Rows that fail such a gate can be generated again or dropped.
        version: of its code; raised when a change of the code changes values or flaws.
    """

    name: str
    sentence: str
    bound: Bound
    defaults: Settings
    measure: Callable[[AuditedDataset, Settings], Measure]
    reason: str = ""
    remedy: str = ""
    blocking: bool = True
    needs: tuple[Need, ...] = ()
    forms: Mapping[str, Settings] = field(default_factory=dict)
    recorded: bool = False
    by_row: bool = False
    version: int = 1

    @property
    def all_defaults(self) -> dict[str, Any]:
        """Every setting with its default, as `study/catalogue.py` completes them."""
        blocking = {} if self.recorded else {"blocking": self.blocking}
        defaults = {**self.defaults, "threshold": float(self.defaults["threshold"]), **blocking}
        facts = {"version": self.version, "by_row": self.by_row}
        forms = {form: dict(settings) for form, settings in self.forms.items()}
        return {**defaults, **facts, "forms": forms, "prompts": {}}

    def passes(self, value: float, threshold: float) -> bool:
        """Return whether a value meets a threshold."""
        if self.recorded:
            return True
        return value >= threshold if self.bound == "at least" else value <= threshold


Hint = str | Callable[[Sequence[AuditedRow], AuditedDataset], Iterable[bool]]
FindFlaw = Callable[[AuditedRow, AuditedDataset, Settings], str | None]


class RowShare(Measure):
    """Counts the rows with a flaw, by kind: a flaw's text up to a colon; what follows is of the row."""

    def __init__(
        self, bound: Bound, find_flaw: FindFlaw, dataset: AuditedDataset, settings: Settings, *, hint: Hint = ""
    ) -> None:
        super().__init__(dataset, settings)
        self._bound, self._find_flaw, self._hint = bound, find_flaw, hint
        self._rows = 0
        self._flaws = Counter[str]()
        self._examples: list[FailingRow] = []

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._rows += len(rows)
        for row in compress(rows, self.may_fail(rows)):
            self._note(row, self.flaw(row))

    def _note(self, row: AuditedRow, flaw: str | None) -> None:
        if flaw is not None:
            self._flaws[flaw.partition(":")[0]] += 1
            if len(self._examples) < EXAMPLES:
                self._examples.append(FailingRow(row.id, flaw))

    def merge(self, later: Self) -> None:
        self._rows += later._rows
        self._flaws += later._flaws
        self._examples = [*self._examples, *later._examples][:EXAMPLES]

    def flaw(self, row: AuditedRow) -> str | None:
        return self._find_flaw(row, self.dataset, self.settings)

    def may_fail(self, rows: Sequence[AuditedRow]) -> Iterable[bool]:
        if isinstance(self._hint, str):
            return may_match([row.text for row in rows], self._hint) if self._hint else super().may_fail(rows)
        return self._hint(rows, self.dataset)

    def result(self) -> Measurement:
        flawed = self._flaws.total()
        counted, verb = (self._rows - flawed, "pass") if self._bound == "at least" else (flawed, "fail")
        detail = f"{counted:,} of {self._rows:,} completions {verb}"
        flaws = sorted(self._flaws.items(), key=lambda one: (-one[1], one[0]))
        if flaws:
            flaw, times = flaws[0]
            detail += f" (most common flaw, {times:,} times: {flaw})"
        value = counted / self._rows if self._rows else 0.0
        figures = {"flaws": dict(flaws)} if flaws else {}
        return Measurement(value=value, detail=detail, failing=flawed, examples=self._examples, figures=figures)


def row_gate(
    *,
    name: str,
    sentence: str,
    bound: Bound,
    defaults: Settings,
    find_flaw: FindFlaw,
    reason: str = "",
    remedy: str = "",
    needs: tuple[Need, ...] = (),
    blocking: bool = True,
    forms: Mapping[str, Settings] | None = None,
    version: int = 1,
    hint: Hint = "",
) -> Gate:
    """Return a gate that judges each row by itself; its value is a share of the rows.

    Args:
        bound: "at most" limits the share of rows with a flaw, "at least" demands a share of rows without one.
        find_flaw: returns the reason why a row fails, or None if it passes; a function of a module, so that a measure
            can be sent to another process.
        hint: a pattern in RE2's syntax that matches every text with a flaw, and few others; or a function that returns
            for each row whether it may have one.
    """

    return Gate(
        name=name,
        sentence=sentence,
        bound=bound,
        defaults=defaults,
        measure=partial(RowShare, bound, find_flaw, hint=hint),
        reason=reason,
        remedy=remedy,
        needs=needs,
        blocking=blocking,
        forms=forms or {},
        by_row=True,
        version=version,
    )


def _lines(text: str) -> list[str]:
    return [stripped for line in text.splitlines() if (stripped := line.strip())]


def _sentences(lines: Sequence[str]) -> list[str]:
    text = "\n".join(lines)
    if text and text.replace("\n", "").isprintable() and "  " not in text:  # single spaces: faster than the pattern
        return text.replace(". ", ".\n").replace("! ", "!\n").replace("? ", "?\n").split("\n")
    return [sentence for line in lines for sentence in _SENTENCE_END.split(line) if sentence]
