"""The recipe of a configuration of the release: which rows it has, and what each row says of its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import RELEASE, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recipe import SERVER_DEFAULT
from finephrase_dagster.artifacts.recorded import recorded_dropped
from finephrase_dagster.artifacts.snapshot import remembered
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.fields import hub_reference
from finephrase_dagster.study.generator import PACKAGED


@remembered
def release_artifact(lineage: Lineage, configuration: str) -> Artifact:
    """Return a configuration of the release.

    Raises:
        ArtifactMissing: a dataset of it, or its audit, is not complete.
    """
    release = lineage.study.release
    assert release is not None
    parts = []
    for component in lineage.study.released[configuration]:
        dataset, audit = lineage.component(component), lineage.component_audit(component)
        assert audit is not None
        despite = audit.facts.get("passed") is False and component.name in release.despite_audits
        parts.append(
            {
                "dataset": dataset.version,
                "audit": audit.version,
                **({"despite_audit": True} if despite else {}),
                **recorded_dropped(audit),
                "columns": origin_columns(lineage, component),
            }
        )
    recipe = {"datasets": parts, "file_megabytes": release.file_megabytes}
    return lineage.artifact(ItemKey(kind=RELEASE, configuration=configuration), recipe)


def origin_columns(lineage: Lineage, component: Component) -> dict[str, Any]:
    """Return the columns that all rows of a synthetic dataset have in common. No path of this machine is among them."""
    source, generator = lineage.study.sources[component.source], lineage.study.generators[component.generator or ""]
    dataset, corpus = lineage.component(component), lineage.source(component.source)
    model, hub = lineage.generator(component.generator or ""), hub_reference(generator.model)
    resolved = model.manifest().get("resolved") or {}
    seed = dataset.recipe["sampling"]["seed"]
    packaged = PACKAGED.package if generator.is_packaged else Path(generator.model).name
    place = getattr(source, "dataset", None) or getattr(source, "corpus", None)
    return {
        "source": place if place and not Path(place).is_absolute() else source.kind,
        "source_version": corpus.version,
        "prompt_sha256": lineage.prompts[component.prompt or ""].digest,
        "model": hub.repository if hub else packaged,
        "model_revision": resolved.get("commit") or model.version,
        "recipe_fingerprint": dataset.fingerprint,
        "seed": None if seed == SERVER_DEFAULT else int(seed),
    }
