"""nanotron's checkpoints: which of a run's counts.

nanotron writes `<step>/` file by file, in the end `model_config.json`. A process that is killed leaves that
file out; a machine that stops may leave files short. So every file is looked at: its own format says
whether it is all there.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finephrase_dagster.train.checkpoint import Checkpoint

LAST_WRITTEN = "model_config.json"
METADATA = "checkpoint_metadata.json"
WEIGHT_PART = re.compile(r"_tp-rank-(\d+)-of-(\d+)")
STATE_PART = re.compile(r"_pp-(\d+)-of-(\d+)_tp-(\d+)-of-(\d+)")


def last_checkpoint(folder: Path, *, log: Callable[[str], None]) -> Checkpoint | None:
    """The latest whole checkpoint in `folder`; later ones are torn, renamed to `torn-*` and reported."""
    for step in sorted(steps_in(folder), reverse=True):
        if whole(folder / str(step), step):
            log(f"taken up at step {step}")
            return Checkpoint(folder / str(step), step)
        log(f"checkpoint {step} is incomplete and set aside")
        number = sum(1 for _ in folder.glob(f"torn-*-{step}"))
        (folder / str(step)).rename(folder / f"torn-{number}-{step}")
    return None


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, whole or not."""
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []


def forget_older(folder: Path, *, than: int) -> None:
    """Removes all checkpoints before a step but the two latest: nanotron keeps every one."""
    for step in sorted(step for step in steps_in(folder) if step < than)[:-2]:
        shutil.rmtree(folder / str(step), ignore_errors=True)


def whole(checkpoint: Path, step: int) -> bool:
    """Whether a checkpoint is all there and is this step's."""
    model, metadata = read_json(checkpoint / LAST_WRITTEN), read_json(checkpoint / METADATA)
    try:
        same = metadata["metas"]["last_train_step"] == step
        parts = int(metadata["tp"])
        layers = int(model["num_hidden_layers"])
    except (KeyError, TypeError, ValueError):
        return False
    return same and _has_weights(checkpoint / "model", parts, layers) and _has_states(checkpoint)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _has_weights(model: Path, parts: int, layers: int) -> bool:
    """Whether each file ends where its header says, and no parameter and no part of one is missing."""
    files = sorted(model.rglob("*.safetensors"))
    shared = Counter(file.parent for file in files if WEIGHT_PART.search(file.name))
    return (
        # A layer has four matrices and two norms; the embeddings and the last norm stand alone.
        len(shared) == 4 * layers + 1
        and set(shared.values()) == {parts}
        and len(files) - shared.total() == 2 * layers + 1
        and all(_ends_as_said(file) for file in files)
    )


def _ends_as_said(file: Path) -> bool:
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, size)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return size == 8 + length + max(ends)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        return False


def _has_states(checkpoint: Path) -> bool:
    """Whether optimizer and schedule are there, for each part of the model, as the zip files that torch writes."""
    for kind in ("optimizer", "lr_scheduler"):
        files = list((checkpoint / kind).glob("*.pt"))
        parts = [match.groups() for file in files if (match := STATE_PART.search(file.name))]
        wanted = {int(stages) * int(shards) for _, stages, _, shards in parts}
        found = {(stage, shard) for stage, _, shard, _ in parts}
        if wanted != {len(found)} or not all(zipfile.is_zipfile(file) for file in files):
            return False
    return True
