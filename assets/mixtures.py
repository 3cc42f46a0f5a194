"""Mixtures: datasets by weight up to a budget; each refuses a dataset whose audit did not pass."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.previews import records
from finephrase_dagster.artifacts.artifact import ArtifactMissing, Contents
from finephrase_dagster.artifacts.key import AUDIT, DATASET_TOKENS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import (
    CORPUS_TOKENS,
    MIXTURE,
    asset_key,
    asset_spec,
    mixtures_using,
    needs,
    static,
)
from finephrase_dagster.orchestration.placement import preparing
from finephrase_dagster.orchestration.retries import retried
from finephrase_dagster.study.spec import Study
from finephrase_dagster.study.student import MANY_EPOCHS
from finephrase_dagster.train.mixture import mix
from resources.warehouse import Warehouse


class AuditNotPassed(FinephraseError):
    """A mixture names a dataset that did not pass its audit; the message names the gates."""


def build_mixtures(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The asset `mixtures/mixture`."""

    @dg.multi_asset(
        name="mixture",
        specs=[
            asset_spec(
                MIXTURE,
                group="mixtures",
                description="Token windows drawn from datasets by weight: tokens available and drawn, epochs, and "
                "what went in.",
                kinds={"parquet"},
                owner="training",
                columns={
                    "component": ("string", "the dataset that the window is drawn from"),
                    "start": ("int", "its first token there"),
                },
                deps=_deps(lineage.study),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "repetition",
                asset=MIXTURE,
                description=f"no component is seen more than {MANY_EPOCHS} times; beyond that, more passes add little",
                partitions_def=static(lineage.study.mixtures),
            )
        ],
        partitions_def=static(lineage.study.mixtures),
        **preparing().arguments,
    )
    @retried
    def mixture(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        refuse_what_failed_its_audit(lineage, name)
        artifact = lineage.mixture(name)
        manifest = artifact.materialize(lambda folder: _mix(lineage, name, folder))
        warehouse.record(artifact)
        result = materialized(
            artifact,
            rows=manifest["windows"],
            tokens=manifest["tokens"],
            preview=records(manifest["components"]),
            largest_epochs=max(component["epochs"] for component in manifest["components"]),
        )
        return result._replace(check_results=[_repetition(manifest["components"])])

    return [mixture]


def _repetition(components: list[dict[str, Any]]) -> dg.AssetCheckResult:
    """Warns of components that a student sees too often: what they gain is confounded with their share."""
    epochs = {component["name"]: component["epochs"] for component in components}
    many = {name: count for name, count in epochs.items() if count > MANY_EPOCHS}
    return dg.AssetCheckResult(
        check_name="repetition",
        passed=not many,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(f"{name}: {count:.1f} times" for name, count in (many or epochs).items()),
        metadata={"epochs": max(epochs.values())},
    )


def _deps(study: Study) -> list[dg.AssetDep]:
    deps = [needs(CORPUS_TOKENS, {source: mixtures_using(study, source) for source in study.sources})]
    for cell in study.cells:
        uses = {prompt: mixtures_using(study, f"{cell.name}/{prompt}") for prompt in study.prompts_of(cell)}
        deps += [needs(key, uses) for key in (asset_key(DATASET_TOKENS, cell), asset_key(AUDIT, cell))]
    return deps


def refuse_what_failed_its_audit(lineage: Lineage, mixture: str) -> None:
    """Checks the audits of a mixture's components.

    A blocking check stops only what is downstream in the same run, so the mixture looks for itself.

    Raises:
        AuditNotPassed: an audit is missing or did not pass.
    """
    for name, component in lineage.study.components(mixture).items():
        audit = lineage.component_audit(component)
        if audit is None:
            continue
        try:
            manifest = audit.manifest()
        except ArtifactMissing as error:
            raise AuditNotPassed(f"mixture {mixture}: {name} has no audit; materialise {audit.name} first") from error
        if not manifest["passed"]:
            failed = ", ".join(
                f"{result['name']} is {result['value']:.3g}, the gate is {result['threshold']:.3g}"
                for result in manifest["gates"]
                if not result["passed"]
            )
            raise AuditNotPassed(
                f"mixture {mixture}: {name} did not pass its audit ({failed}); improve the prompt or the "
                "generator, or take the dataset out of the mixture"
            )


def _mix(lineage: Lineage, name: str, folder: Path) -> Contents:
    mixture = lineage.study.mixtures[name]
    facts = mix(
        folder,
        mixture=mixture,
        sequence=lineage.sequence,
        components={
            component: lineage.tokens(value).folder for component, value in lineage.study.components(name).items()
        },
    )
    return Contents(files=folder.glob("*.parquet"), facts=asdict(facts))
