"""Audits: the gates over every synthetic dataset, as asset checks."""

from collections.abc import Mapping
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import dagster as dg

from assets.previews import failing, failing_rows
from finephrase_dagster.artifacts.artifact import Artifact, Contents, write_json
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.key import AUDIT, DATASET
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recorded import AUDIT_PAGE
from finephrase_dagster.audit.audit import Audit
from finephrase_dagster.audit.failing import write_failing_rows
from finephrase_dagster.audit.gate import FailingRow
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.audit.page import audit_page
from finephrase_dagster.orchestration.asset import Check, stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs_same
from finephrase_dagster.study.component import Cell
from finephrase_dagster.train.admission import DROPPED, is_overridden, write_dropped
from resources.warehouse import Warehouse

REPORT, FAILING, PAGE = "audit.json", "failing.parquet", AUDIT_PAGE
"""The files of an audit: all figures, one row per failing row and gate, and the page."""


def build_audits(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return one audit asset per cell, with one partition per prompt."""
    return [_audit_asset(lineage, cell) for cell in lineage.study.cells]


def _audit_asset(lineage: Lineage, cell: Cell) -> dg.AssetsDefinition:
    prompts = lineage.study.prompts_of(cell)
    blocking = {
        name
        for prompt in prompts
        for name, settings in lineage.gate_settings(cell, prompt).items()
        if settings["blocking"] and name not in lineage.dropping_gates(cell, prompt)
    }
    checks = [Check(gate.name, gate.sentence, gate.name in blocking) for gate in gates().values()]

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
        deps=[needs_same(DATASET, cell=cell)],
        checks=checks,
    )
    def audit_asset(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        prompt = context.partition_key
        dataset, artifact = lineage.dataset(cell, prompt), lineage.audit(cell, prompt)
        dataset.manifest()
        drops = lineage.dropping_gates(cell, prompt)
        audit = partial(
            Audit,
            dataset.folder,
            check=lineage.prompts[prompt].check,
            settings=lineage.gate_settings(cell, prompt),
            source=lineage.source(cell.source).folder,
            drops=drops,
        )
        manifest = artifact.materialize(lambda folder: _write_audit(folder, dataset, audit()))
        warehouse.record(artifact)
        figures: dict[str, Any] = {gate["name"]: round(gate["value"], 4) for gate in manifest["gates"]}
        for gate in manifest["gates"]:
            figures |= {name: value for name, value in gate["figures"].items() if isinstance(value, int | float)}
        rows = failing_rows(artifact.folder / FAILING, dataset.folder)
        result = materialized(
            artifact,
            rows=manifest["rows"],
            **figures,
            passed=manifest["passed"],
            dropped_rows=manifest["dropped"]["rows"] if drops else None,
            failing_rows=dg.MetadataValue.md(rows) if rows else None,
            all_failing_rows=dg.MetadataValue.path(str(artifact.folder / FAILING)),
            page=dg.MetadataValue.path(str(artifact.folder / PAGE)),
        )
        overridden = is_overridden(lineage.study, f"{cell.name}/{prompt}")
        results = [_check_result(gate, overridden=overridden) for gate in manifest["gates"]]
        return result._replace(check_results=[*results, *starmap(_skipped, manifest["skipped"].items())])

    return audit_asset


def _check_result(gate: Mapping[str, Any], *, overridden: bool) -> dg.AssetCheckResult:
    examples = [FailingRow(**example) for example in gate["examples"]]
    is_error = gate["blocking"] and not overridden
    return dg.AssetCheckResult(
        check_name=gate["name"],
        passed=gate["passed"] or gate["drops"],
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=gate["detail"],
        metadata={
            "gate": f"{gate['bound']} {gate['threshold']:g}",
            "value": round(gate["value"], 4),
            "threshold": gate["threshold"],
            "failing": gate["failing"],
            **({"examples": dg.MetadataValue.md(failing(examples))} if examples else {}),
            **({} if gate["passed"] else {"what_to_do": gates()[gate["name"]].remedy}),
        },
    )


def _skipped(name: str, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name, passed=True, severity=dg.AssetCheckSeverity.WARN, description=f"skipped: {reason}"
    )


def _write_audit(folder: Path, dataset: Artifact, running: Audit) -> Contents:
    with running as audit:
        write_failing_rows(audit, folder / FAILING)
        names = [REPORT, FAILING, PAGE]
        dropped: dict[str, dict[str, Any]] = {}
        if audit.drops:
            names.append(DROPPED)
            dropped = {"dropped": write_dropped(folder / FAILING, [*audit.drops], folder / DROPPED)}
            audit.leave_out(dropped["dropped"]["rows"])
        report = audit.report
        write_json(folder / REPORT, report.as_json())
        (folder / PAGE).write_text(audit_page(audit, dataset.name), encoding="utf-8")
    # Downstream artifacts depend on whether the dataset passed and on the rows that are dropped, not on the figures: a
    # gate that is moved without changing the outcome marks no mixture as stale.
    version = fingerprint([dataset.version, report.passed, *dropped.values()])[:SHORT]
    return Contents(files=[folder / name for name in names], facts={**report.as_json(), **dropped}, version=version)
