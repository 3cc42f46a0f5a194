"""The audit of a synthetic dataset: run every gate over its rows and collect the results.

Nothing is repaired or filtered here. The gates are in `audit/gates/`, one file per gate.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from finephrase_dagster.audit.dataset import AuditError, compare_files, open_dataset, read_chunks
from finephrase_dagster.audit.forms import FORMS
from finephrase_dagster.audit.gate import EXCERPT, AuditedDataset, AuditedRow, Bound, Measure, Measurement, Settings
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.audit.parallel import run_all, sensible_processes
from finephrase_dagster.audit.shared_words import share_words
from finephrase_dagster.audit.source_texts import SourceTexts, join_sources
from finephrase_dagster.audit.span import Span, divide
from finephrase_dagster.study.catalogue import complete_gates, settings_for
from finephrase_dagster.study.fields import InvalidFields


@dataclass(frozen=True, kw_only=True)
class GateResult(Measurement):
    """One gate's result: what it measured, and what that means.

    Attributes:
        value: see the gate's sentence.
        threshold: the value must be at least or at most this, as `bound` says.
        examples: at most three failing rows, if the gate failed.
        seconds: processor time that it took.
        drops: whether the rows that fail it are left out of training, so that it cannot fail the dataset.
    """

    name: str
    threshold: float
    bound: Bound
    blocking: bool
    passed: bool
    seconds: float
    drops: bool = False


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The results of all gates for one dataset; `as_json` turns it into JSON.

    Attributes:
        rows: completions in the data files.
        skipped: gates that could not run, each with what the dataset lacks.
        without_source: completions whose source was not found, if sources were given.
        reading_seconds: processor time for reading the files and splitting texts into words.
    """

    rows: int
    gates: tuple[GateResult, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    without_source: int = 0
    reading_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every blocking gate passed."""
        return all(gate.passed for gate in self.gates if gate.blocking)

    def as_json(self) -> dict[str, Any]:
        """Return the report as `finephrase audit --json` prints it."""
        results = [
            {**asdict(gate), "examples": [example._asdict() for example in gate.examples]} for gate in self.gates
        ]
        return {
            "passed": self.passed,
            "rows": self.rows,
            "gates": results,
            "skipped": dict(self.skipped),
            "without_source": self.without_source,
            "reading_seconds": self.reading_seconds,
        }


Paths = str | Path | Sequence[str | Path]


def audit_dataset(
    path: Paths,
    *,
    check: str | None = None,
    settings: Mapping[str, Any] | None = None,
    source: Paths = (),
    processes: int | None = None,
) -> AuditReport:
    """Run the quality gates over a synthetic dataset.

    Args:
        path: the folder of a finished dataset, such as `out/faq`; or Parquet and JSONL (plain, .gz, .zst) files with
            the column `text`, and where they have them `id`, `finish_reason` and `source_text`. Without ids a row's
            number is its id. Gates that need more than the files have are skipped and listed in the report.
        check: the form that the completions must have, such as "faq" (a prompt file's field `check`); without it the
            gate `form` is skipped.
        settings: settings by gate that replace the gates' defaults, such as `{"form": {"threshold": 0.9}}`; a single
            value is the threshold.
        source: files, or the folder of a corpus, with the columns `id` and `text`: the documents that the completions
            were made from.
        processes: how many processes read the rows. Default: one per core, fewer for small files.

    Returns:
        The report: `passed`, `rows`, `skipped`, and `gates` with the columns `name`, `value`, `threshold`, `bound`,
        `blocking`, `passed`, `failing`, `detail`, `figures`, `examples` and `seconds`.

    Raises:
        AuditError: the folder holds no complete dataset, a file cannot be read, or there is no such form, gate or
            setting.

    Example:
        >>> report = audit_dataset("out/faq", check="faq")  # doctest: +SKIP
        >>> [gate.name for gate in report.gates if not gate.passed]  # doctest: +SKIP
        ['form']
    """
    with Audit(path, check=check, settings=settings, source=source, processes=processes) as audit:
        return audit.report


class Audit:
    """An audit, while its temporary files exist: the report, and after it the rows that fail.

    Attributes:
        parts: the rows that each process reads, with their sources.
        measures: the finished measure of each gate.
    """

    def __init__(
        self,
        path: Paths,
        *,
        check: str | None = None,
        settings: Mapping[str, Any] | None = None,
        source: Paths = (),
        processes: int | None = None,
        drops: Collection[str] = (),
    ) -> None:
        """Run all gates; see `audit_dataset`.

        Args:
            drops: the gates whose failing rows are left out of training, so that they cannot fail the dataset. The
                number of these rows is not known before they are written; see `leave_out`.
        """
        if check is not None and check not in FORMS:
            raise AuditError(f"check {check!r}: no such form; use one of {', '.join(FORMS)}")
        self.settings, self.drops = resolve_settings(settings or {}, check), drops
        dataset = self.dataset = open_dataset(_listed(path), check=check)
        size = sum(file.size for file in dataset.files)
        spans = divide(dataset.files, processes or sensible_processes(size)) or [[]]
        sources: Sequence[SourceTexts | None] = [None] * len(spans)
        self._temporary = tempfile.TemporaryDirectory(prefix="finephrase-audit-")
        self.folder = Path(self._temporary.name)
        try:
            if paths := _listed(source):
                sources = join_sources(paths, spans, self.folder)
                dataset.offers |= {"source_text"}
            self.parts = list(zip(spans, sources, strict=True))
            self._run()
        except BaseException:
            self._temporary.cleanup()
            raise

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *error: object) -> None:
        self._temporary.cleanup()

    def _run(self) -> None:
        dataset = self.dataset
        results = run_all(_measure, [(dataset, self.settings, *part) for part in self.parts])
        first, *others = results
        seconds, self.measures = first.seconds, first.measures
        for measure in self.measures.values():
            measure.dataset = dataset
        dataset.problems[:] = dict.fromkeys(problem for one in results for problem in one.problems)
        for other in others:
            for name, more in other.seconds.items():
                seconds[name] += more
            for name, measure in self.measures.items():
                with timed(seconds, name):
                    measure.merge(other.measures[name])
        rows, sourceless = sum(one.rows for one in results), sum(one.without_source for one in results)
        if not rows and dataset.manifest is None:
            raise AuditError(f"{dataset.files[0].url}: has no rows to audit; name another file")
        if rows and sourceless == rows:
            raise AuditError("--source: has none of the ids of the rows; check that both have the same column id")
        judged = [self._judge(name, measure, seconds) for name, measure in self.measures.items()]
        self.report = AuditReport(
            rows=rows,
            gates=tuple(self._with_excerpts(judged)),
            skipped=_lacking(dataset, self.settings),
            without_source=sourceless,
            reading_seconds=round(seconds[READING], 3),
        )

    def _judge(self, name: str, measure: Measure, seconds: dict[str, float]) -> GateResult:
        """Return what a finished measure means; its processor time is added to `seconds`."""
        with timed(seconds, name):
            measured = measure.result()
        gate, settings = gates()[name], self.settings[name]
        passed, drops = gate.passes(measured.value, settings["threshold"]), name in self.drops
        rule = (
            "rows that fail are left out of training" if drops else f"required: {gate.bound} {settings['threshold']:g}"
        )
        changed = {"detail": f"{measured.detail}; {rule}", "examples": () if passed else tuple(measured.examples)}
        return GateResult(
            **{**vars(measured), **changed},
            name=name,
            threshold=settings["threshold"],
            bound=gate.bound,
            blocking=settings["blocking"] and not drops,
            passed=passed,
            seconds=round(seconds[name], 3),
            drops=drops,
        )

    def leave_out(self, rows: int) -> None:
        """Add the gate `left_out` to the report, given how many rows are left out of training."""
        self.dataset.rows, self.dataset.left_out = self.report.rows, rows
        measure = gates()[LEFT_OUT].measure(self.dataset, self.settings[LEFT_OUT])
        result = self._judge(LEFT_OUT, measure, defaultdict(float))
        results = sorted((*self.report.gates, result), key=attrgetter("name"))
        skipped = {name: lack for name, lack in self.report.skipped.items() if name != LEFT_OUT}
        self.report = replace(self.report, gates=tuple(results), skipped=skipped)

    def _with_excerpts(self, results: Sequence[GateResult]) -> Iterator[GateResult]:
        """Yield results of which every example has the beginning of its text."""
        wanted = {row.id for result in results for row in result.examples if not row.text}
        excerpts: dict[str, str] = {}
        if wanted:
            for chunk in read_chunks(replace(self.dataset, problems=[]), self.dataset.files):
                excerpts |= {row.id: row.text[:EXCERPT] for row in chunk if row.id in wanted}
                if len(excerpts) == len(wanted):
                    break
        for result in results:
            texts = (row if row.text else row._replace(text=excerpts.get(row.id, "")) for row in result.examples)
            yield replace(result, examples=tuple(texts))


LEFT_OUT = "left_out"
"""The gate that is measured last, and only if rows are left out."""
READING = "reading"


@dataclass(frozen=True)
class PartResult:
    """What one process measured: the measures by gate, and processor seconds by gate and for `READING`."""

    rows: int
    without_source: int
    measures: Mapping[str, Measure]
    seconds: dict[str, float]
    problems: Sequence[str]


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the processor time of the block."""
    started = time.process_time()
    yield
    seconds[name] += time.process_time() - started


def read_part(
    dataset: AuditedDataset, spans: Sequence[Span], sources: SourceTexts | None
) -> Iterator[list[AuditedRow]]:
    """Yield the rows of a part in chunks, with their sources if there are any."""
    lookup = sources.lookup() if sources else None
    for chunk in read_chunks(dataset, spans):
        if lookup is not None:
            texts = lookup([row.id for row in chunk])
            chunk = [
                AuditedRow(row.id, row.text, row.finish_reason, text) for row, text in zip(chunk, texts, strict=True)
            ]
        yield chunk


def _measure(
    dataset: AuditedDataset,
    settings: Mapping[str, Settings],
    spans: Sequence[Span],
    sources: SourceTexts | None,
) -> PartResult:
    """Measure a part of a dataset with all gates that can run."""
    lacking = _lacking(dataset, settings)
    measures = {name: gate.measure(dataset, settings[name]) for name, gate in gates().items() if name not in lacking}
    rows = without_source = 0
    seconds = defaultdict[str, float](float)
    started = time.process_time()
    for chunk in read_part(dataset, spans, sources):
        share_words(chunk)
        seconds[READING] += time.process_time() - started
        rows += len(chunk)
        if "source_text" in dataset.offers:
            without_source += sum(row.source_text is None for row in chunk)
        for name, measure in measures.items():
            with timed(seconds, name):
                measure.add(chunk)
        started = time.process_time()
    compare_files(dataset, spans)
    seconds[READING] += time.process_time() - started
    return PartResult(rows, without_source, measures, seconds, dataset.problems)


def _lacking(dataset: AuditedDataset, settings: Mapping[str, Settings]) -> dict[str, str]:
    """Return for each gate that cannot run what it needs: of the dataset, or a model."""
    lacking = {}
    for name, gate in gates().items():
        offers = dataset.offers | ({"model"} if settings[name].get("model") else set())
        if needs := [need for need in gate.needs if need not in offers]:
            lacking[name] = f"needs {' and '.join(needs)}"
    return lacking


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def resolve_settings(settings: Mapping[str, Any], check: str | None) -> dict[str, dict[str, Any]]:
    """Return the settings of every gate for a form, with defaults where none are given.

    Raises:
        AuditError: there is no such gate or setting, or a value is wrong.
    """
    try:
        return settings_for(
            complete_gates(settings, {name: gate.all_defaults for name, gate in gates().items()}), check
        )
    except InvalidFields as error:
        raise AuditError(f"gates: {error}") from error
