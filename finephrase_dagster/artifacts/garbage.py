"""Artifacts that no study needs any more, and how they are deleted.

An item needs the artifact of its current recipe. Until that one is complete it also needs its latest one, because the
study may still return to it. What belongs to studies whose files were not read is never deleted without being asked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.artifacts.artifact import FOLDERS, LABELS, ArtifactMissing
from finephrase_dagster.artifacts.claim import FolderBusy, claim_folder
from finephrase_dagster.artifacts.graph import Item, items, state
from finephrase_dagster.artifacts.key import SWEEP, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.study.file import StudyError

DAY = 86_400
TRASH = ".deleting"


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """An artifact's folder that none of the studies needs.

    Attributes:
        days: days since one of its files was written.
        studies: the studies whose files were not read and that label it.
    """

    folder: Path
    size_bytes: int
    days: float
    studies: tuple[str, ...]


def unneeded(data: Path, studies: Sequence[Lineage], *, now: float | None = None) -> list[Unneeded]:
    """Return the artifacts in a data folder that none of these studies needs, the largest first."""
    needed = {folder for lineage in studies for folder in _needed(lineage)}
    labels = _labels(data, {lineage.study.name for lineage in studies})
    found = []
    for folder in sorted((data / FOLDERS).glob("*/*")):
        if folder.is_dir() and not folder.name.startswith(TRASH) and folder.resolve() not in needed:
            stats = [file.stat() for file in folder.rglob("*") if file.is_file()]
            last = max((stat.st_mtime for stat in stats), default=folder.stat().st_mtime)
            found.append(
                Unneeded(
                    folder=folder,
                    size_bytes=sum(stat.st_size for stat in stats),
                    days=max(0.0, (now or time.time()) - last) / DAY,
                    studies=tuple(sorted(labels.get(folder.resolve(), ()))),
                )
            )
    return sorted(found, key=lambda each: -each.size_bytes)


def delete(artifacts: Iterable[Unneeded]) -> Iterator[tuple[Unneeded, bool]]:
    """Delete artifacts, and yield each with whether it is gone; one that is being written is kept.

    A folder is renamed before its files are deleted, so that half an artifact never has an artifact's name.
    """
    for artifact in artifacts:
        trash = artifact.folder.with_name(f"{TRASH}-{artifact.folder.name}-{os.getpid()}")
        try:
            with claim_folder(artifact.folder):
                artifact.folder.rename(trash)
        except FolderBusy:
            yield artifact, False
            continue
        shutil.rmtree(trash)
        yield artifact, True


def sweep(data: Path) -> None:
    """Delete what an interrupted deletion left, and labels that lead nowhere."""
    for trash in (data / FOLDERS).glob(f"*/{TRASH}-*"):
        shutil.rmtree(trash, ignore_errors=True)
    for path in (data / LABELS).rglob("*"):
        if path.is_symlink() and not path.exists():
            path.unlink(missing_ok=True)


def _needed(lineage: Lineage) -> Iterator[Path]:
    lineage = lineage.snapshot()
    for item in items(lineage):
        with contextlib.suppress(ArtifactMissing, StoppedEarly, StudyError):
            yield item.artifact().folder.resolve()
        if not _is_current(item):
            yield (item.labels / item.name).resolve()
    for generator in lineage.study.generators:
        yield (lineage.labels / ItemKey(kind=SWEEP, generator=generator).name).resolve()


def _is_current(item: Item) -> bool:
    try:
        return state(item).status == "current"
    except StudyError:  # the files of a source do not exist
        return False


def _labels(data: Path, known: set[str]) -> dict[Path, set[str]]:
    """Return, by artifact, the studies that label it, without those whose files were read."""
    labels: dict[Path, set[str]] = {}
    for study in (data / LABELS).glob("*"):
        if study.name not in known:
            for path in study.rglob("*"):
                if path.is_symlink():
                    labels.setdefault(path.resolve(), set()).add(study.name)
    return labels
