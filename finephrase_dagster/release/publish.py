"""The folder of a release: the data files of all configurations, the card, the metadata and the lineage.

A configuration is an artifact like any other; the folder holds its files as hard links where the file system allows
that, and as copies elsewhere. The folder is complete if and only if it holds `__meta__/manifest.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import MANIFEST, atomic_write, build_manifest, labelled_manifest, write_json
from finephrase_dagster.artifacts.claim import LOCK, claim_folder
from finephrase_dagster.artifacts.fingerprint import SHORT, differences, fingerprint
from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.artifacts.graph import current_facts, items, states
from finephrase_dagster.artifacts.key import audit_key, dataset_key
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.artifacts.release import release_artifact
from finephrase_dagster.artifacts.verification import check_artifact, check_folder
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.release.card import card
from finephrase_dagster.release.croissant import croissant
from finephrase_dagster.release.export import LINEAGE, materialize_configuration
from finephrase_dagster.rephrase.dataset import json_bytes, sha256_bytes
from finephrase_dagster.study.fields import shorten
from finephrase_dagster.study.paths import materialize_command

UPSTREAM = ("sources", "generators", "synthetic", "audits")
REMEDY = "Delete it and {manifest}, and run `finephrase release` again."


class ReleaseRefused(FinephraseError, exit_status=2):
    """A study cannot be released as it is, or not into this folder; the message says what to do."""


def check_release(lineage: Lineage, configurations: Iterable[str] | None = None) -> None:
    """Raise ReleaseRefused unless the datasets of configurations (default: all) are current and may be released."""
    study, file = lineage.study, lineage.paths.study
    if study.release is None:
        raise ReleaseRefused(
            f"{file}: missing section 'release' (what is published). Add for example `release: {{license: odc-by}}`; "
            "see docs/release.md."
        )
    lineage = lineage.snapshot()
    graph = {item.name: item for item in items(lineage) if item.stage in UPSTREAM}
    known = states(graph)
    missing, failed = [], []
    for component in {part: None for name in configurations or study.released for part in study.released[name]}:
        for name in (dataset_key(component).name, audit_key(component).name):
            if known[name].status != "current":
                reasons = f" ({'; '.join(known[name].reasons)})" if known[name].reasons else ""
                missing.append(f"{name} is {known[name].status}{reasons}")
        audit = graph[audit_key(component).name]
        is_failed = (current_facts(audit) or {}).get("passed") is False
        if is_failed and component.name not in study.release.despite_audits:
            failed.append(f"{component.name} ({'; '.join(failed_gates(audit.artifact().manifest()).values())})")
    if missing:
        raise ReleaseRefused(f"{shorten(missing, 5)}. Run `{materialize_command(file)}` first.")
    if failed:
        raise ReleaseRefused(
            f"did not pass its audit: {shorten(failed, 5)}. Correct its cause, list other datasets in "
            "release.configurations, or state in release.despite_audits why it is released."
        )


def publish(lineage: Lineage, folder: Path, log: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Write a study's release into a folder, or verify the one that is there; return its manifest.

    Raises:
        ReleaseRefused: a dataset is missing, stale or failed its audit, or the folder holds something else.
        ArtifactDamaged: a file is not what a manifest lists.
    """
    check_release(lineage)
    lineage = lineage.snapshot()
    manifests = {name: materialize_configuration(lineage, name, log) for name in lineage.study.released}
    if folder.exists() and any(folder.iterdir()) and not (folder / LOCK).exists():
        raise ReleaseRefused(f"{folder}: is not empty and holds no release; choose another --output.")
    data = {
        name: [{**file, "path": f"{name}/{file['path']}"} for file in manifest["files"]]
        for name, manifest in manifests.items()
    }
    texts = _texts(lineage, manifests, data)
    manifest = _manifest(manifests, data, texts)
    with claim_folder(folder):
        existing = labelled_manifest(folder)
        if existing and existing["recipe"] != (recipe := manifest["recipe"]):
            changes = "; ".join(differences(existing["recipe"], recipe))
            raise ReleaseRefused(
                f"{folder}: holds another release ({changes}). Choose another --output, or delete the folder."
            )
        is_new = existing is None or existing.get("seal") != manifest["seal"]
        if is_new:
            (folder / MANIFEST).unlink(missing_ok=True)
            for name in data:
                source = check_artifact(release_artifact(lineage, name))
                for file in manifests[name]["files"]:
                    _link(source / file["path"], folder / name / file["path"])
            for name, content in texts.items():
                LocalFolder(folder).write(name, content)
        check_folder(LocalFolder(folder), manifest, strays=True)
        if is_new:
            write_json(folder / MANIFEST, manifest)
    return manifest


def _texts(lineage: Lineage, manifests: Mapping[str, Mapping[str, Any]], data: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that describe the data, by name."""
    study = lineage.study
    assert study.release is not None
    version = fingerprint({name: manifest["version"] for name, manifest in manifests.items()})[:SHORT]
    described = croissant(
        name=study.release.title or study.name,
        description=study.description,
        license=study.release.license,
        version=f"1.0.0+{version}",
        files=data,
    )
    lines = []
    for name in manifests:
        for line in (release_artifact(lineage, name).folder / LINEAGE).read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            lines.append(json.dumps({"configuration": name, **entry, "file": f"{name}/{entry['file']}"}) + "\n")
    return {
        "README.md": card(lineage, manifests).encode(),
        "croissant.json": json_bytes(described),
        "lineage.jsonl": "".join(lines).encode(),
    }


def _manifest(
    manifests: Mapping[str, Mapping[str, Any]], data: Mapping[str, list[dict[str, Any]]], texts: Mapping[str, bytes]
) -> dict[str, Any]:
    recipe = {"stage": "release", "configurations": {name: one["version"] for name, one in manifests.items()}}
    fields = ("rows", "prompt_tokens", "completion_tokens", "content")
    contents = {name: {field: one[field] for field in fields} for name, one in manifests.items()}
    files = [file for some in data.values() for file in some]
    files += [{"path": name, "bytes": len(text), "sha256": sha256_bytes(text)} for name, text in texts.items()]
    return build_manifest(recipe, {"configurations": contents, "remedy": REMEDY.format(manifest=MANIFEST)}, files)


def _link(source: Path, target: Path) -> None:
    """Let a file appear under its name, completely or not at all."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    with contextlib.suppress(OSError):
        os.link(source, temporary)
        temporary.replace(target)
        return
    with atomic_write(target) as copy:
        shutil.copyfile(source, copy)
