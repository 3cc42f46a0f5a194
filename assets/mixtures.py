"""Mixtures: datasets by weight up to a token budget."""

from collections import defaultdict
from dataclasses import asdict
from typing import Any

import dagster as dg

from assets.previews import components, records
from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.key import AUDIT, MIXTURE, Kind, tokens_key
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.verification import check_artifact
from finephrase_dagster.audit.overlap import MOST, REMEDY, PromptOverlap, prompt_overlaps
from finephrase_dagster.orchestration.asset import Check, stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs
from finephrase_dagster.study.spec import Study
from finephrase_dagster.study.student import MANY_EPOCHS
from finephrase_dagster.train.admission import check_mixture
from finephrase_dagster.train.mixture import mix
from resources.warehouse import Warehouse

COLUMNS = {
    "component": ("string", "the version of the tokens that the window is drawn from"),
    "start": ("int", "the window's first token in the dataset"),
}
OVERLAP = Check("overlap", f"no two prompts of a cell have nearly the same completion for over {MOST:.0%} of documents")
REPETITION = Check("repetition", f"no component is seen more than {MANY_EPOCHS} times; beyond that it adds little")


def build_mixtures(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `mixtures/mixture`."""

    @stage_asset(
        lineage,
        MIXTURE,
        description="Token windows drawn from datasets by weight: tokens available and drawn, epochs, and components. "
        "A mixture refuses a dataset whose audit is missing or did not pass.",
        kinds={"parquet"},
        owner="training",
        partitions=lineage.study.mixtures,
        columns=COLUMNS,
        deps=_deps(lineage.study),
        checks=[REPETITION, OVERLAP],
    )
    def mixture(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        used = check_mixture(lineage, name, context.log.warning)
        artifact, parts, sequence = lineage.mixture(name), lineage.parts(name), lineage.sequence
        spec = lineage.mixture_spec(name)
        tokens = {version: check_artifact(part.tokens) for version, part in parts.items()}
        names = {version: part.name for version, part in parts.items()}
        pairs = prompt_overlaps(lineage, name)
        despite = {"reason": spec.despite_audits, "failed": used} if used else None
        artifact.materialize(
            lambda folder: Contents(
                facts={
                    **asdict(mix(folder, mixture=spec, sequence=sequence, components=tokens, names=names)),
                    "despite_audits": despite,
                    "overlaps": [asdict(pair) for pair in pairs],
                },
                files=folder.glob("*.parquet"),
            )
        )
        manifest = lineage.mixture_manifest(name)
        warehouse.record(artifact)
        result = materialized(
            artifact,
            rows=manifest["windows"],
            tokens=manifest["tokens"],
            preview=components(manifest["components"]),
            despite_audits=spec.despite_audits if used else None,
            largest_epochs=max(component["epochs"] for component in manifest["components"]),
            prompts_overlap=records(manifest["overlaps"]) if manifest.get("overlaps") else None,
        )
        return result._replace(check_results=[_repetition(manifest["components"]), _overlap(pairs)])

    return [mixture]


def _repetition(components: list[dict[str, Any]]) -> dg.AssetCheckResult:
    """Warn of components that a student sees too often: their effect is confounded with that of repetition."""
    epochs = {component["name"]: component["epochs"] for component in components}
    many = {name: count for name, count in epochs.items() if count > MANY_EPOCHS}
    return dg.AssetCheckResult(
        check_name=REPETITION.name,
        passed=not many,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(f"{name}: {count:.1f} times" for name, count in (many or epochs).items()),
        metadata={"epochs": max(epochs.values())},
    )


def _overlap(pairs: list[PromptOverlap]) -> dg.AssetCheckResult:
    """Warn of prompts that give nearly the same text for many documents: the second one adds little."""
    many = [pair for pair in pairs if not pair.passed]
    most = sorted(pairs, key=lambda pair: -pair.near_duplicates)[: max(len(many), 1)]
    shown = [f"{pair.first} and {pair.second}: {pair.near_duplicates:.1%}" for pair in most]
    return dg.AssetCheckResult(
        check_name=OVERLAP.name,
        passed=not many,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(shown) or "no two prompts of a cell",
        metadata={
            "near_duplicates": max((pair.near_duplicates for pair in pairs), default=0.0),
            **({"what_to_do": REMEDY} if many else {}),
        },
    )


def _deps(study: Study) -> list[dg.AssetDep]:
    """Return what mixtures depend on, each partition alone: tokens, also those of matched mixtures, and audits."""
    uses: dict[tuple[Kind, str | None], dict[str, list[str]]] = defaultdict(dict)
    for component, mixtures in study.tokenized.items():
        key = tokens_key(component)
        uses[key.kind, key.cell][key.partition or ""] = mixtures
    using: dict[str, list[str]] = defaultdict(list)
    for name, mixture in study.mixtures.items():
        for dataset in mixture.components:
            using[dataset].append(name)
    for cell in study.cells:
        for prompt in study.prompts_of(cell):
            uses[AUDIT, cell.name][prompt] = using[cell.component(prompt).name]
    return [needs(kind, used, cell=study.cell(cell) if cell else None) for (kind, cell), used in uses.items()]
