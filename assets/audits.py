"""Audits: the gates over every synthetic dataset, as blocking asset checks."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.previews import failing
from finephrase_dagster.artifacts.artifact import Artifact, Contents, write_json
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.audit.gates import Audit, audit_dataset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import asset_spec, audit_key, cell_tags, needs, static, synthetic_key
from finephrase_dagster.orchestration.placement import preparing
from finephrase_dagster.orchestration.retries import retried
from finephrase_dagster.results.warehouse import record_audit
from finephrase_dagster.study.spec import Cell
from resources.warehouse import Warehouse

GATES = {
    "accounting": "every document is completed, skipped or failed, and every file is as the manifest says",
    "completed": "the share of documents with a completion",
    "empty": "the share of completions without text",
    "truncated": "the share of completions that ended at max_tokens",
    "form": "the share of completions that have the form the prompt asks for",
    "common_opening": "the share of completions with the most common opening",
}


def build_audits(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """One audit a cell, one partition a prompt."""
    return [_audit_asset(lineage, cell) for cell in lineage.study.cells]


def _audit_asset(lineage: Lineage, cell: Cell) -> dg.AssetsDefinition:
    key = audit_key(cell)
    partitions = static(lineage.study.prompts_of(cell))
    spec = asset_spec(
        key,
        group="synthetic",
        stage="audits",
        description=f"Whether the datasets of `{cell.name}` are fit to train on: six gates, each a blocking check. A "
        "mixture refuses a dataset that did not pass.\n\n"
        + "\n".join(f"- **{gate}**: {meaning}" for gate, meaning in GATES.items()),
        kinds={"duckdb"},
        owner="generation",
        tags=cell_tags(lineage, cell),
        deps=[needs(synthetic_key(cell), {prompt: [prompt] for prompt in lineage.study.prompts_of(cell)})],
    )

    @dg.multi_asset(
        name=f"audits__{cell.name}",
        specs=[spec],
        check_specs=[
            dg.AssetCheckSpec(gate, asset=key, blocking=True, description=description, partitions_def=partitions)
            for gate, description in GATES.items()
        ],
        partitions_def=partitions,
        **preparing().arguments,
    )
    @retried
    def audit(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        prompt = context.partition_key
        dataset, artifact = lineage.dataset(cell, prompt), lineage.audit(cell, prompt)
        dataset.manifest()
        found = audit_dataset(dataset.folder, check=lineage.prompts[prompt].check, gates=lineage.study.gates)
        artifact.materialize(lambda folder: _report(folder, dataset, found))
        with warehouse.connect() as connection:
            record_audit(connection, artifact, cell.name, found.gates)
        warehouse.record(artifact)
        figures: dict[str, Any] = {gate.name: round(gate.value, 4) for gate in found.gates}
        result = materialized(
            artifact, rows=found.rows, **figures, distinct_openings=found.distinct_openings, passed=found.passed
        )
        return dg.MaterializeResult(
            data_version=result.data_version,
            metadata=result.metadata,
            check_results=[
                dg.AssetCheckResult(
                    check_name=gate.name,
                    passed=gate.passed,
                    description=gate.detail,
                    metadata={
                        "gate": f"{gate.bound} {gate.threshold:g}",
                        "value": round(gate.value, 4),
                        "threshold": gate.threshold,
                        **({"examples": dg.MetadataValue.md(failing(gate.examples))} if gate.examples else {}),
                    },
                )
                for gate in found.gates
            ],
        )

    return audit


def _report(folder: Path, dataset: Artifact, found: Audit) -> Contents:
    write_json(folder / "audit.json", found.as_json())
    # Downstream hangs on the verdict, not on the figures: a gate that is moved without consequence marks no
    # mixture as stale.
    version = fingerprint([dataset.version, found.passed])[:SHORT]
    return Contents(files=[folder / "audit.json"], facts=found.as_json(), version=version)
