"""What is known of one item of the lineage graph: its state, recipe, inputs, files and cost, and what depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import MANIFEST, Artifact, ArtifactMissing, labelled_manifest, manifest_facts
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.graph import Item, State, items, states
from finephrase_dagster.artifacts.item_names import find_item
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.study.file import StudyError

COSTS = ("engine_seconds", "gpu_hours", "dollars", "goodput")
APART = ("version", "made_with", "bytes", "goodput", "run")
"""Fields of a manifest that are not among the `figures` of a description."""


def describe(lineage: Lineage, name: str) -> dict[str, Any]:
    """Return what is known of an item.

    Of a stale item, `folder`, `files`, `figures` and `cost` are those of its latest artifact, and `recipe` is the one
    that it would be made by now; that is None while an input is missing.

    Raises:
        ItemUnknown: the study has no such item.
    """
    lineage = lineage.snapshot()
    graph = {item.name: item for item in items(lineage)}
    item = find_item(graph, name)
    known = states(graph)
    artifact = _artifact(item)
    manifest, folder = _latest(item, artifact, known[item.name])
    written = (folder / MANIFEST).stat().st_mtime if folder else None
    facts = manifest_facts(manifest) if manifest else {}
    files = [file for file in (manifest or {}).get("files", []) if isinstance(file, dict)]
    return {
        "item": item.name,
        "study": lineage.study.name,
        "stage": item.stage,
        "state": known[item.name].status,
        "reasons": list(known[item.name].reasons),
        "fingerprint": artifact.fingerprint if artifact else None,
        "version": facts.get("version"),
        "folder": str(folder) if folder else None,
        "made": datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds") if written else None,
        "made_with": (manifest or {}).get("made_with"),
        "recipe": plain(artifact.recipe) if artifact else None,
        "needs": [_neighbour(need, known) for need in item.needs],
        "needed_by": [_neighbour(other.name, known) for other in graph.values() if item.name in other.needs],
        "files": files,
        "bytes": facts.get("bytes"),
        "gates": [
            {field: value for field, value in gate.items() if field not in ("figures", "examples")}
            for gate in (manifest or {}).get("gates", [])
        ],
        "figures": {field: value for field, value in facts.items() if field not in APART},
        "cost": {field: value for field, value in _cost(facts).items() if value is not None},
    }


def _artifact(item: Item) -> Artifact | None:
    try:
        return item.artifact()
    except (ArtifactMissing, StoppedEarly, StudyError):
        return None


def _latest(item: Item, artifact: Artifact | None, state: State) -> tuple[dict[str, Any] | None, Path | None]:
    """Return the manifest and the folder of the item's current artifact, else of its latest one."""
    if artifact is not None and state.status == "current":
        return artifact.manifest(), artifact.folder
    label = item.labels / item.name
    manifest = labelled_manifest(label)
    return manifest, label.resolve() if manifest else None


def _neighbour(name: str, known: Mapping[str, State]) -> dict[str, str]:
    return {"item": name, "state": known[name].status}


def _cost(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an artifact took, from its manifest: an account of its runs, or seconds and GPUs."""
    account, seconds, gpus = facts.get("goodput"), facts.get("seconds"), facts.get("gpus")
    if isinstance(account, dict):
        return {name: account.get(name) for name in COSTS}
    return {"seconds": seconds, "gpu_hours": round(gpus * seconds / 3600, 4) if gpus and seconds else None}
