"""Artifacts: where the product of a recipe lies, who may write it, and when it counts.

An artifact's folder is named by its recipe's fingerprint, so two recipes never share one and
nothing that was paid for is overwritten: going back to an earlier recipe finds its product again.
It is complete if and only if it holds `__meta__/manifest.json`; that file is written last, whole, by a
rename. What is not here: how any artifact is made.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.claim import META, claim_folder
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, plain, sha256_file
from finephrase_dagster.errors import FinephraseError

MANIFEST = f"{META}/manifest.json"


class ArtifactMissing(FinephraseError):
    """An artifact that is needed is not complete; the message says how to make it."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there gets the final name at the end.

    The file is synced and renamed only if the block succeeds; otherwise nothing is left behind.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the new name may not survive the machine
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a stage put into an artifact's folder; the fields are those of `Artifact.publish`."""

    files: Iterable[Path]
    facts: Mapping[str, Any]
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One product of the study.

    Attributes:
        asset: the path of the asset it belongs to, such as `synthetic/tiny__readmes`.
        partition: its partition, such as `faq`; None where the asset has no partitions.
        recipe: everything that determines it; hashed whole.
        root: the folder of all artifacts (`FINEPHRASE_DATA`).
    """

    asset: str
    partition: str | None
    recipe: Mapping[str, Any]
    root: Path

    def __post_init__(self) -> None:
        for part in (*self.asset.split("/"), *([] if self.partition is None else [self.partition])):
            if not _names_a_folder(part):
                raise ValueError(f"{part!r} cannot name a folder of an artifact; use letters, digits and underscores")

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.recipe)

    @property
    def name(self) -> str:
        return f"{self.asset}/{self.partition}" if self.partition else self.asset

    @property
    def folder(self) -> Path:
        """`<root>/<asset>[/<partition>]/<fingerprint>`."""
        return self.root / self.name / self.fingerprint[:SHORT]

    @property
    def complete(self) -> bool:
        return (self.folder / MANIFEST).exists()

    @property
    def size_bytes(self) -> int:
        """What its files take on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def manifest(self) -> dict[str, Any]:
        """The manifest of a complete artifact.

        Raises:
            ArtifactMissing: it is not complete, or its manifest is another recipe's or unreadable.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            raise ArtifactMissing(f"{self.name} is not there: materialise it first")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found, _ = manifest["fingerprint"], manifest["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactMissing(f"{path} is not a manifest ({_said(error)}): delete its folder") from error
        if found != self.fingerprint:
            raise ArtifactMissing(f"{path} has the fingerprint of another recipe: delete its folder")
        return manifest

    @property
    def version(self) -> str:
        """What downstream recipes and Dagster name it by; see `publish`.

        Raises:
            ArtifactMissing: it is not complete.
        """
        return self.manifest()["version"]

    def claim(self) -> contextlib.AbstractContextManager[Path]:
        """Hold the artifact's folder for writing; raises FolderBusy if another process holds it."""
        return claim_folder(self.folder, self.name)

    def materialize(self, make: Callable[[Path], Contents]) -> dict[str, Any]:
        """The manifest of the artifact, which `make` fills into its folder unless it is there already.

        The manifest tells the `seconds` that it took.

        Raises:
            FolderBusy: another process is making it.
        """
        if not self.complete:
            with self.claim() as folder:
                if not self.complete:
                    began = time.monotonic()
                    product = make(folder)
                    facts = {"seconds": round(time.monotonic() - began, 3), **product.facts}
                    self.publish(product.files, facts, version=product.version)
        return self.manifest()

    def publish(self, files: Iterable[Path], facts: Mapping[str, Any], *, version: str | None = None) -> dict[str, Any]:
        """Writes the manifest: from here on the artifact is complete.

        Args:
            files: the artifact's files, below its folder.
            facts: what the stage has to say (rows, tokens, scores); may hold `files` of its own.
            version: what downstream recipes name it by. Default: a hash of the recipe and of the files'
                names and bytes, for the recipe alone would not do: a second generation of one recipe need
                not give the same words. A stage whose content says all that matters downstream (the rows
                of a corpus, the weights of a model) gives a hash of that content.
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


def _names_a_folder(part: str) -> bool:
    """Whether a name is that of one folder below another, on any file system."""
    return part not in ("", ".", "..") and part.isprintable() and not set("/\\") & set(part) and _bytes(part) <= 255


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _said(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def build_manifest(
    recipe: Mapping[str, Any],
    facts: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    *,
    version: str | None = None,
    content: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The manifest of a finished product.

    Args:
        recipe: everything that determines it.
        facts: what its stage has to say.
        files: what it consists of, each with `path` and `sha256` at least.
        version: what downstream recipes name it by; default: a hash of the recipe and the files' names and
            content.
        content: the files that this hash is over, where they are not `files`.
    """
    name = fingerprint(recipe)
    hashed = [[file["path"], file["sha256"]] for file in content or files]
    return {
        "fingerprint": name,
        "version": version or fingerprint([name, hashed])[:SHORT],
        "recipe": plain(recipe),
        **facts,
        "files": list(files),
    }
