"""Verification: whether the files of an artifact are those that its manifest lists.

Sizes are compared on every reuse. A file is hashed once, and again whenever its stamp has changed: `verified.json`
lists the stamps of the files whose hash was right. A manifest is guarded by its own hash, the seal.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from finephrase_dagster.artifacts.artifact import MANIFEST, Artifact
from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.fingerprint import seal
from finephrase_dagster.artifacts.folder import Folder, FolderUnusable, LocalFolder
from finephrase_dagster.errors import FinephraseError

VERIFIED = f"{META}/verified.json"
REMAKE = "Delete this folder and run `finephrase materialize` to make it again."
READABLE = ".parquet"  # a reader's own pattern would read such a file, whether or not the manifest lists it


class ArtifactDamaged(FinephraseError):
    """A file of an artifact is not what the manifest lists; the message names it and the next action."""


class Flaw(NamedTuple):
    """A file at fault, what is wrong with it, and what to do."""

    file: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file} {self.problem}. {self.remedy}"


def check_artifact(artifact: Artifact) -> Path:
    """Return the folder of a complete artifact whose files are those that were written.

    Raises:
        ArtifactMissing: it is not complete.
        ArtifactDamaged: a file is not what the manifest lists.
    """
    check_folder(LocalFolder(artifact.folder), artifact.manifest(), strays=True)
    return artifact.folder


def artifact_files(artifact: Artifact) -> list[Path]:
    """Return the files that the manifest of an artifact lists; raises like `check_artifact`."""
    folder = check_artifact(artifact)
    return [folder / file["path"] for file in artifact.manifest()["files"]]


def check_folder(folder: Folder, manifest: Mapping[str, Any], *, strays: bool = False) -> None:
    """Raise ArtifactDamaged if a listed file is not what the manifest lists, or, with `strays`, one is not listed."""
    flaws = find_flaws(folder, manifest, strays=strays)
    if flaws:
        more = f" ({len(flaws) - 1} more: finephrase verify {folder})" if len(flaws) > 1 else ""
        raise ArtifactDamaged(f"{folder}: {flaws[0]}{more}")


def find_flaws(
    folder: Folder, manifest: Mapping[str, Any], *, strays: bool = True, every_hash: bool = False
) -> list[Flaw]:
    """Compare the files in a folder with its manifest.

    Args:
        strays: also report files that readers with a pattern of their own would read, but the manifest does not list.
        every_hash: hash all files, also those that have not changed since they were hashed.
    """
    is_dataset = "rows_in" in manifest
    if ("seal" in manifest or "version" in manifest) and manifest.get("seal") != seal(manifest):
        remedy = "Restore it, or delete it and run the command again." if is_dataset else REMAKE
        return [Flaw(MANIFEST, "was edited: it does not match its own hash", remedy)]
    redo = f"Delete it and {MANIFEST} and run the command again to redo its rows." if is_dataset else REMAKE
    redo = manifest.get("remedy", redo)
    listed = {file["path"]: file for file in [*manifest["files"], *manifest.get("meta_files", ())]}
    stamps = folder.stamps(list(listed))
    verified = {} if every_hash else _read_verified(folder)
    known, flaws = {}, []
    for name, file in listed.items():
        if name not in stamps:
            flaws.append(Flaw(name, "is missing", redo.replace("it and ", "")))
            continue
        size, mark = stamps[name]
        if file.get("bytes", size) != size:
            flaws.append(Flaw(name, f"has {size:,} bytes, but the manifest lists {file['bytes']:,}", redo))
        elif verified.get(name) != [size, mark, file["sha256"]] and folder.sha256(name) != file["sha256"]:
            flaws.append(Flaw(name, "is damaged: it does not have the hash that the manifest lists", redo))
        else:
            known[name] = [size, mark, file["sha256"]]
    if known != verified:
        remember_verified(folder, known)
    if strays:
        flaws += [
            Flaw(name, "is not in the manifest, and `*.parquet` would read it", "Move it to another folder.")
            for name in _strays(folder, listed)
        ]
    return flaws


def verify_folder(folder: Folder, seen: set[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield `folder`, `files`, `bytes` and `flaws` of the artifacts in a folder, all of whose files are hashed.

    An artifact to which several names lead is verified once; `seen` has the paths of those that were.
    """
    seen = set() if seen is None else seen
    if (path := os.path.realpath(str(folder))) in seen:
        return
    seen.add(path)
    try:
        manifest = json.loads(folder.read(MANIFEST))
        listed = [*manifest["files"], *manifest.get("meta_files", ())]
        flaws = find_flaws(folder, manifest, every_hash=True)
    except FileNotFoundError:
        for name in folder.folders():
            yield from verify_folder(folder.below(name), seen)
        return
    except (ValueError, KeyError, TypeError) as error:
        listed, flaws = [], [Flaw(MANIFEST, f"is not a manifest ({error})", f"Restore it. {REMAKE}")]
    size = sum(stamp.bytes for stamp in folder.stamps([file["path"] for file in listed]).values())
    counts = {"files": len(listed), "bytes": size}
    yield {"folder": str(folder), **counts, "flaws": [flaw._asdict() for flaw in flaws]}


def remember_verified(folder: Folder, verified: Mapping[str, Any]) -> None:
    """Write down which files had the right hash, each with its stamp; a folder may be read-only."""
    with contextlib.suppress(OSError, FolderUnusable):
        folder.write(VERIFIED, json.dumps(verified).encode())


def _read_verified(folder: Folder) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, FolderUnusable):
        verified = json.loads(folder.read(VERIFIED))
        if isinstance(verified, dict):
            return verified
    return {}


def _strays(folder: Folder, listed: Mapping[str, Any]) -> list[str]:
    parents = {str(PurePosixPath(name).parent) for name in listed if name.endswith(READABLE)} - {META} | {"."}
    patterns = [f"*{READABLE}" if parent == "." else f"{parent}/*{READABLE}" for parent in sorted(parents)]
    return [name for pattern in patterns for name in folder.names(pattern) if name not in listed]
