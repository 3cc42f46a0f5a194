"""Artifacts: where the content of an item lies, who may write it, and when it is complete.

An artifact's folder is named after its recipe's fingerprint alone, so two recipes never share a folder and nothing
that was paid for is overwritten: after a return to an earlier recipe, or a change of names, its artifact is current
again. An artifact is complete if and only if its folder holds `__meta__/manifest.json`, which is written last, by a
rename. Names are labels: in `studies/<study>/`, each item is a link to the folder of its latest artifact.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from finephrase_dagster.artifacts.claim import META, claim_folder
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, plain, seal, sha256_file
from finephrase_dagster.artifacts.key import ItemKey
from finephrase_dagster.artifacts.provenance import installed
from finephrase_dagster.errors import FinephraseError

MANIFEST = f"{META}/manifest.json"
FOLDERS, LABELS = "artifacts", "studies"
NESTED_FACTS = ("sampling", "run", "made_with", "discarded", "dropped", "goodput")
"""Fields of a manifest with fields of their own that other stages and plans need."""


class ArtifactMissing(FinephraseError):
    """A required artifact is not complete; the message says how to materialize it."""


class NotMaterialized(ArtifactMissing):
    """The artifact, or an input of it, was never completed."""


@contextlib.contextmanager
def atomic_write(path: Path, *, once: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename the file written there to `path` at the end.

    If the block raises, the temporary file is deleted and `path` stays as it was. With `once`, a file that exists is
    not replaced.

    Raises:
        FileExistsError: with `once`, `path` exists.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.link(temporary, path) if once else temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # otherwise the new name may be lost in a power failure
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a stage wrote into an artifact's folder; the fields are the arguments of `Artifact.publish`."""

    files: Iterable[Path]
    facts: Mapping[str, Any]
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The content of one item of the graph, by one recipe.

    Attributes:
        recipe: everything that determines the content; hashed as a whole.
        root: the folder of all artifacts (`FINEPHRASE_DATA`).
        study: the study that it is labelled in; None: no label.
    """

    key: ItemKey
    recipe: Mapping[str, Any]
    root: Path
    study: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of its recipe."""
        return fingerprint(self.recipe)

    @property
    def name(self) -> str:
        """The name of its item."""
        return self.key.name

    @property
    def folder(self) -> Path:
        """`<root>/artifacts/<kind of recipe>/<fingerprint>`."""
        return self.root / FOLDERS / self.key.kind.code / self.fingerprint[:SHORT]

    @property
    def complete(self) -> bool:
        """Whether its manifest is written."""
        return (self.folder / MANIFEST).exists()

    @property
    def size_bytes(self) -> int:
        """The size of its files on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete artifact.

        Raises:
            NotMaterialized: it is not complete.
            ArtifactMissing: its manifest is unreadable or belongs to another recipe.
        """
        path = f"{self.root}/{FOLDERS}/{self.key.kind.code}/{self.fingerprint[:SHORT]}/{MANIFEST}"
        try:
            manifest = _load(path)
            recorded, _ = manifest["fingerprint"], manifest["version"]
        except (FileNotFoundError, NotADirectoryError) as error:
            made = self.study is not None and (self.root / LABELS / self.study / self.name).exists()
            state = "is stale" if made else "does not exist"
            raise NotMaterialized(f"{self.name} {state}: materialize it first") from error
        except KeyError as error:
            raise ArtifactMissing(f"{path} has no field {error}: delete its folder") from error
        except (OSError, ValueError, TypeError) as error:
            raise ArtifactMissing(f"{path} is not a manifest ({error}): delete its folder") from error
        if recorded != self.fingerprint:
            raise ArtifactMissing(f"{path} has the fingerprint of another recipe: delete its folder")
        return manifest

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The figures of its manifest that other stages and plans need, and the `bytes` of its files; read once.

        Raises:
            ArtifactMissing: it is not complete.
        """
        return manifest_facts(self.manifest())

    @property
    def version(self) -> str:
        """The version that downstream recipes and Dagster identify its content by; see `publish`.

        Raises:
            ArtifactMissing: it is not complete.
        """
        return self.facts["version"]

    def claim(self) -> contextlib.AbstractContextManager[Path]:
        """Hold the artifact's folder for writing; raises FolderBusy if another process holds it."""
        return claim_folder(self.folder, self.name)

    def materialize(self, make: Callable[[Path], Contents]) -> dict[str, Any]:
        """Return the artifact's manifest; unless it is complete, first let `make` write its content into its folder.

        The manifest records the `seconds` that this took.

        Raises:
            FolderBusy: another process is writing it.
        """
        if not self.complete:
            with self.claim() as folder:
                if not self.complete:
                    began = time.monotonic()
                    contents = make(folder)
                    facts = {"seconds": round(time.monotonic() - began, 3), **contents.facts}
                    self.publish(contents.files, facts, version=contents.version)
        self.label()
        return self.manifest()

    def label(self) -> None:
        """Point the item's label in its study to this artifact. A file system without links has no labels."""
        if self.study is None:
            return
        path = self.root / LABELS / self.study / self.name
        target = os.path.relpath(self.folder, path.parent)
        with contextlib.suppress(OSError):
            if path.is_symlink() and str(path.readlink()) == target:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            temporary.symlink_to(target)
            temporary.replace(path)

    def publish(self, files: Iterable[Path], facts: Mapping[str, Any], *, version: str | None = None) -> dict[str, Any]:
        """Write the manifest, which makes the artifact complete.

        Args:
            files: the artifact's files, inside its folder.
            facts: the stage's figures (rows, tokens, scores) for the manifest; may hold a list `files` of its own.
            version: what downstream recipes identify the content by. Default: a hash of the recipe and of the files'
                names and bytes, because generating twice by one recipe need not give the same text. A stage where
                only part of the content matters downstream (the rows of a corpus, the weights of a model) passes a
                hash of that part.
        """
        listed = facts.get("files") or [
            {
                "path": str(path.relative_to(self.folder)),
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
            for path in sorted(files)
        ]
        facts = {name: value for name, value in facts.items() if name != "files"}
        manifest = build_manifest(self.recipe, facts, listed, version=version)
        (self.folder / META).mkdir(exist_ok=True)
        write_json(self.folder / MANIFEST, manifest)
        return manifest


def _load(path: str) -> Any:
    """Return the JSON of a file, read as fast as possible: a plan of a large study reads all manifests."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        content = file.readall()
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:  # also where a figure is NaN
        return json.loads(content)


def labelled_manifest(label: Path) -> dict[str, Any] | None:
    """Return the manifest of the artifact in a folder, or that a label points to; None if none can be read."""
    try:
        manifest = json.loads((label / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("recipe"), dict) else None


def manifest_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a manifest, and the total `bytes` of its files if they are known."""
    facts = {
        name: value
        for name, value in manifest.items()
        if name in NESTED_FACTS or (name not in ("fingerprint", "seal") and not isinstance(value, (list, dict)))
    }
    files = manifest.get("files")
    if isinstance(files, list) and files:
        sizes = [file.get("bytes") if isinstance(file, dict) else None for file in files]
        facts["bytes"] = sum(sizes) if all(isinstance(size, int) for size in sizes) else None
    return facts


def build_manifest(
    recipe: Mapping[str, Any],
    facts: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    *,
    version: str | None = None,
    content: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a finished artifact.

    Args:
        files: the files, each with `path` and `sha256` at least.
        version: see `Artifact.publish`.
        content: the files that the default version is a hash of. Default: `files`.
    """
    name = fingerprint(recipe)
    hashed = [[file["path"], file["sha256"]] for file in content or files]
    manifest = {
        "fingerprint": name,
        "version": version or fingerprint([name, hashed])[:SHORT],
        "recipe": plain(recipe),
        "made_with": [installed(str(recipe.get("stage")))],
        **facts,
        "files": list(files),
    }
    return {**manifest, "seal": seal(manifest)}


def file_stamps(path: Path) -> list[list[str | int]]:
    """Return the name, size and time of each file of a folder, or of a file.

    Raises:
        ArtifactMissing: it does not exist.
    """
    if not path.exists():
        raise ArtifactMissing(f"{path} does not exist; correct the path in the study file, or put the files there")
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
