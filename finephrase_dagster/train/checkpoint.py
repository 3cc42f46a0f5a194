"""Checkpoints within a run: which one a killed run is taken up at, and when one counts.

A checkpoint counts if `whole.json`, written after everything else, stands in its folder and lists the
files that are there with their sizes. Any other is set aside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.artifacts.artifact import write_json

WHOLE = "whole.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint and the steps that were done when it was written."""

    folder: Path
    step: int


def mark_whole(folder: Path) -> None:
    """Says that a checkpoint is complete as it stands."""
    write_json(folder / WHOLE, _sizes(folder))


def last_checkpoint(work: Path, *, log: Callable[[str], None]) -> Checkpoint | None:
    """The latest whole checkpoint below `work`; torn ones are renamed to `torn-*` and reported."""
    latest = None
    for folder in sorted(work.glob("checkpoint-*")):
        match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if match is None:
            continue
        if not whole(folder):
            log(f"checkpoint {folder.name} is incomplete and set aside")
            number = sum(1 for _ in work.glob(f"torn-*-{folder.name}"))
            folder.rename(work / f"torn-{number}-{folder.name}")
        elif latest is None or int(match[1]) > latest.step:
            latest = Checkpoint(folder, int(match[1]))
    if latest:
        log(f"taken up at step {latest.step}")
    return latest


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != WHOLE
    }


def whole(folder: Path) -> bool:
    """Whether a checkpoint is complete."""
    try:
        return bool(json.loads((folder / WHOLE).read_text(encoding="utf-8")) == _sizes(folder))
    except (OSError, ValueError):
        return False
