"""Checkpoints of a running training: which of them is complete, and which one a killed run resumes from.

A checkpoint is complete if its folder holds `complete.json`, which is written after everything else and lists the
files with their sizes. A torn checkpoint is renamed and reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.artifacts.artifact import write_json

COMPLETE = "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint and the number of steps done when it was written."""

    folder: Path
    step: int


def last_checkpoint(
    work: Path,
    *,
    log: Callable[[str], None],
    prefix: str = "checkpoint-",
    complete: Callable[[Path, int], bool] = lambda folder, step: is_complete(folder),
) -> Checkpoint | None:
    """Return the latest complete checkpoint in a folder; later ones are torn, and are renamed to `torn-*`.

    Args:
        prefix: the beginning of a checkpoint's name, before the step.
        complete: whether a checkpoint of a step is complete.
    """
    for step in sorted(steps_in(work, prefix), reverse=True):
        folder = work / f"{prefix}{step}"
        if complete(folder, step):
            log(f"resumes from the checkpoint of step {step}")
            return Checkpoint(folder, step)
        number = sum(1 for _ in work.glob(f"torn-*-{folder.name}"))
        folder.rename(work / f"torn-{number}-{folder.name}")
        log(f"the checkpoint of step {step} is incomplete; it was renamed to torn-{number}-{folder.name}")
    return None


def steps_in(folder: Path, prefix: str = "") -> list[int]:
    """Return the steps of the checkpoints in a folder, complete or not."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return [int(match[1]) for path in paths if (match := re.fullmatch(rf"{prefix}(\d+)", path.name))]


def mark_complete(folder: Path) -> None:
    """Record that a checkpoint is complete as it is now."""
    write_json(folder / COMPLETE, _sizes(folder))


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint has exactly the files that were there when it was marked as complete."""
    try:
        return bool(json.loads((folder / COMPLETE).read_text(encoding="utf-8")) == _sizes(folder))
    except (OSError, ValueError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != COMPLETE
    }
