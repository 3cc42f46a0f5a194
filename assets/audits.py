"""Audits: the gates over every synthetic dataset, as asset checks."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.previews import failing
from finephrase_dagster.artifacts.artifact import Artifact, Contents, write_json
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.key import AUDIT, DATASET
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.audit.audit import AuditReport, GateResult, audit_dataset
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.orchestration.asset import Check, stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs_same
from finephrase_dagster.study.spec import Cell
from finephrase_dagster.train.admission import is_overridden
from resources.warehouse import Warehouse


def build_audits(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return one audit asset per cell, with one partition per prompt."""
    return [_audit_asset(lineage, cell) for cell in lineage.study.cells]


def _audit_asset(lineage: Lineage, cell: Cell) -> dg.AssetsDefinition:
    prompts = lineage.study.prompts_of(cell)

    @stage_asset(
        lineage,
        AUDIT,
        cell,
        description=f"Whether the datasets of `{cell.name}` are fit to train on. Each gate is an asset check; "
        "a mixture refuses a dataset that failed a blocking gate.\n\n"
        + "\n".join(f"- **{gate.name}**: {gate.sentence}" for gate in gates().values()),
        kinds={"duckdb"},
        owner="generation",
        partitions=prompts,
        deps=[needs_same(DATASET, prompts, cell=cell)],
        checks=[Check(gate.name, gate.sentence, gate.blocking) for gate in gates().values()],
    )
    def audit_asset(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        prompt = context.partition_key
        dataset, artifact = lineage.dataset(cell, prompt), lineage.audit(cell, prompt)
        dataset.manifest()
        report = audit_dataset(
            dataset.folder,
            check=lineage.prompts[prompt].check,
            settings=lineage.gate_settings(cell, prompt),
            source=lineage.source(cell.source).folder,
        )
        artifact.materialize(lambda folder: _write_report(folder, dataset, report))
        warehouse.record(artifact)
        figures: dict[str, Any] = {gate.name: round(gate.value, 4) for gate in report.gates}
        for gate in report.gates:
            figures |= gate.figures
        overridden = is_overridden(lineage.study, f"{cell.name}/{prompt}")
        severity = dg.AssetCheckSeverity.WARN if overridden else dg.AssetCheckSeverity.ERROR
        result = materialized(artifact, rows=report.rows, **figures, passed=report.passed)
        return result._replace(check_results=[_check_result(gate, severity) for gate in report.gates])

    return audit_asset


def _check_result(gate: GateResult, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=gate.name,
        passed=gate.passed,
        severity=severity,
        description=gate.detail,
        metadata={
            "gate": f"{gate.bound} {gate.threshold:g}",
            "value": round(gate.value, 4),
            "threshold": gate.threshold,
            "failing": gate.failing,
            **({"examples": dg.MetadataValue.md(failing(gate.examples))} if gate.examples else {}),
        },
    )


def _write_report(folder: Path, dataset: Artifact, report: AuditReport) -> Contents:
    write_json(folder / "audit.json", report.as_json())
    # Downstream artifacts depend on whether the dataset passed, not on the figures: a gate that is moved without
    # changing the outcome marks no mixture as stale.
    version = fingerprint([dataset.version, report.passed])[:SHORT]
    return Contents(files=[folder / "audit.json"], facts=report.as_json(), version=version)
