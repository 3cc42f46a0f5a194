"""A gate: a rule that a synthetic dataset must pass before a mixture may train on it.

Each gate is one file in `audit/gates/`; `finephrase_dagster.audit.gates.gates()` finds it there. A gate measures a
dataset chunk by chunk, so that no dataset has to fit into memory. This module stays cheap to import: the study file's
schema, the asset checks and the documentation read names, sentences and default settings from the gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

Bound = Literal["at least", "at most"]
Need = Literal["manifest", "check", "finish_reason", "source_text"]
Settings = Mapping[str, Any]

EXAMPLES = 3
EXCERPT = 240  # characters of a completion in an example


class AuditedRow(NamedTuple):
    """One completion of a dataset."""

    id: str
    text: str
    finish_reason: str | None = None
    source_text: str | None = None


class FailingRow(NamedTuple):
    """A row that fails a gate: its id, the reason, and the beginning of its text where it is an example."""

    id: str
    reason: str
    text: str = ""


@dataclass(kw_only=True)
class AuditedDataset:
    """What is known about a dataset, apart from its rows.

    Attributes:
        files: its data files.
        manifest: the content of its manifest; None for a bare file.
        rejected: iterates over the rows of `rejected.parquet` (`id`, `status`, `reason`), any number of times.
        ids: iterates over the ids of all rows, for a gate that needs them again.
        problems: where the files differ from the manifest; complete after the last chunk was read.
        check: the form that its completions must have; see `audit/forms.py`.
        offers: which of the gates' needs it meets.
    """

    files: Sequence[Path]
    manifest: Mapping[str, Any] | None = None
    rejected: Iterable[Mapping[str, Any]] = ()
    ids: Iterable[str] = ()
    problems: list[str] = field(default_factory=list)
    check: str | None = None
    offers: frozenset[Need] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A gate's value for one dataset.

    Attributes:
        detail: one sentence for people.
        failing: how many rows fail.
        examples: the first of them.
        figures: further numbers for people, by name.
    """

    value: float
    detail: str
    failing: int = 0
    examples: Sequence[FailingRow] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


class Measure(ABC):
    """Computes one gate's value over a dataset that is read in chunks."""

    def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
        self.dataset = dataset
        self.settings = settings

    @abstractmethod
    def add(self, rows: Sequence[AuditedRow]) -> None:
        """Take in the next rows."""

    @abstractmethod
    def result(self) -> Measurement:
        """Return the measurement; called once, after the last chunk."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate's name, meaning and settings, and how to measure it.

    Attributes:
        sentence: what the value is, for people.
        bound: whether the value must be at least or at most the setting `threshold`.
        defaults: every setting with its default; always has `threshold`.
        measure: makes the `Measure` of one dataset.
        blocking: whether a dataset that fails it may not be trained on.
        needs: what the dataset must offer; without it the gate is skipped.
    """

    name: str
    sentence: str
    bound: Bound
    defaults: Settings
    measure: Callable[[AuditedDataset, Settings], Measure]
    blocking: bool = True
    needs: tuple[Need, ...] = ()

    def passes(self, value: float, threshold: float) -> bool:
        """Return whether a value meets a threshold."""
        return value >= threshold if self.bound == "at least" else value <= threshold


def row_gate(
    *,
    name: str,
    sentence: str,
    bound: Bound,
    defaults: Settings,
    find_flaw: Callable[[AuditedRow, AuditedDataset, Settings], str | None],
    needs: tuple[Need, ...] = (),
) -> Gate:
    """Return a gate that judges each row by itself; its value is a share of the rows.

    Args:
        bound: "at most" limits the share of rows with a flaw, "at least" demands a share of rows without one.
        find_flaw: returns the reason why a row fails, or None if it passes.
    """

    class RowShare(Measure):
        """Counts the rows with a flaw."""

        def __init__(self, dataset: AuditedDataset, settings: Settings) -> None:
            super().__init__(dataset, settings)
            self._rows = 0
            self._flaws = Counter[str]()
            self._examples: list[FailingRow] = []

        def add(self, rows: Sequence[AuditedRow]) -> None:
            self._rows += len(rows)
            for row in rows:
                if (flaw := find_flaw(row, self.dataset, self.settings)) is not None:
                    self._flaws[flaw] += 1
                    if len(self._examples) < EXAMPLES:
                        self._examples.append(FailingRow(row.id, flaw))

        def result(self) -> Measurement:
            flawed = self._flaws.total()
            counted, verb = (self._rows - flawed, "pass") if bound == "at least" else (flawed, "fail")
            detail = f"{counted:,} of {self._rows:,} completions {verb}"
            if flawed:
                flaw, times = self._flaws.most_common(1)[0]
                detail += f" (most common flaw, {times:,} times: {flaw})"
            value = counted / self._rows if self._rows else 0.0
            return Measurement(value=value, detail=detail, failing=flawed, examples=self._examples)

    return Gate(name=name, sentence=sentence, bound=bound, defaults=defaults, measure=RowShare, needs=needs)
