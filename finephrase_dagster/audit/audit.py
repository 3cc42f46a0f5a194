"""The audit of a synthetic dataset: run every gate over its rows and collect the results.

Nothing is repaired or filtered here. The gates are in `audit/gates/`, one file per gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finephrase_dagster.audit.dataset import AuditError, open_dataset, read_chunks, read_excerpts
from finephrase_dagster.audit.forms import FORMS
from finephrase_dagster.audit.gate import AuditedDataset, Bound, FailingRow, Gate, Measurement, Settings
from finephrase_dagster.audit.gates import gates


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate's result.

    Attributes:
        value: what the gate measured; see the gate's sentence.
        threshold: the value must be at least or at most this, as `bound` says.
        failing: number of rows that fail.
        detail: one sentence for people.
        figures: further numbers for people, by name.
        examples: at most three failing rows, if the gate failed.
    """

    name: str
    value: float
    threshold: float
    bound: Bound
    blocking: bool
    passed: bool
    failing: int
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[FailingRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The results of all gates for one dataset; `as_json` turns it into JSON.

    Attributes:
        rows: completions in the data files.
        skipped: gates that could not run, each with what the dataset lacks.
    """

    rows: int
    gates: tuple[GateResult, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every blocking gate passed."""
        return all(gate.passed for gate in self.gates if gate.blocking)

    def as_json(self) -> dict[str, Any]:
        """Return the report as `finephrase audit --json` prints it."""
        results = [
            {**asdict(gate), "examples": [example._asdict() for example in gate.examples]} for gate in self.gates
        ]
        return {"passed": self.passed, "rows": self.rows, "gates": results, "skipped": dict(self.skipped)}


def audit_dataset(
    path: str | Path, *, check: str | None = None, settings: Mapping[str, Settings] | None = None
) -> AuditReport:
    """Run the quality gates over a synthetic dataset.

    Args:
        path: the folder of a finished dataset, such as `out/faq`; or a Parquet file with the columns `id` and `text`.
            Gates that need more than the file has are skipped and listed in the report.
        check: the form that the completions must have, such as "faq" (a prompt file's field `check`); without it the
            gate `form` is skipped.
        settings: settings by gate that replace the gates' defaults, such as `{"form": {"threshold": 0.9}}`.

    Returns:
        The report: `passed`, `rows`, `skipped`, and `gates` with the columns `name`, `value`, `threshold`, `bound`,
        `blocking`, `passed`, `failing`, `detail`, `figures` and `examples`.

    Raises:
        AuditError: the folder holds no complete dataset, the file cannot be read, or there is no such form, gate or
            setting.

    Example:
        >>> report = audit_dataset("out/faq", check="faq")  # doctest: +SKIP
        >>> [gate.name for gate in report.gates if not gate.passed]  # doctest: +SKIP
        ['form']
    """
    if check is not None and check not in FORMS:
        raise AuditError(f"check {check!r}: no such form; use one of {', '.join(FORMS)}")
    resolved = resolve_settings(settings or {})
    dataset = open_dataset(Path(path), check=check)
    missing = {name: [need for need in gate.needs if need not in dataset.offers] for name, gate in gates().items()}
    measures = {name: gate.measure(dataset, resolved[name]) for name, gate in gates().items() if not missing[name]}
    rows = 0
    for chunk in read_chunks(dataset):
        rows += len(chunk)
        for measure in measures.values():
            measure.add(chunk)
    results = [
        _judge(gates()[name], measure.result(), resolved[name]["threshold"], dataset)
        for name, measure in measures.items()
    ]
    skipped = {name: f"needs {' and '.join(needs)}" for name, needs in missing.items() if needs}
    return AuditReport(rows=rows, gates=tuple(results), skipped=skipped)


def resolve_settings(settings: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    """Return the settings of every gate, with defaults where none are given.

    Raises:
        AuditError: there is no such gate or setting.
    """
    if unknown := sorted(set(settings) - set(gates())):
        raise AuditError(f"no gate is called {unknown[0]!r}; the gates are {', '.join(gates())}")
    for name, given in settings.items():
        if unknown := sorted(set(given) - set(gates()[name].defaults)):
            known = ", ".join(gates()[name].defaults)
            raise AuditError(f"the gate {name!r} has no setting {unknown[0]!r}; its settings are {known}")
    return {name: {**gate.defaults, **settings.get(name, {})} for name, gate in gates().items()}


def _judge(gate: Gate, measured: Measurement, threshold: float, dataset: AuditedDataset) -> GateResult:
    """Compare a measurement with its threshold; a gate that failed gets examples."""
    passed = gate.passes(measured.value, threshold)
    examples = () if passed else tuple(measured.examples)
    excerpts = read_excerpts(dataset, [row.id for row in examples])
    return GateResult(
        name=gate.name,
        value=measured.value,
        threshold=threshold,
        bound=gate.bound,
        blocking=gate.blocking,
        passed=passed,
        failing=measured.failing,
        detail=f"{measured.detail}; required: {gate.bound} {threshold:g}",
        figures=measured.figures,
        examples=tuple(row._replace(text=excerpts.get(row.id, "")) for row in examples),
    )
