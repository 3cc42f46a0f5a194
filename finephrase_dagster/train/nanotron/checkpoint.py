"""nanotron's checkpoints: whether one is complete.

nanotron writes the folder `<step>` file by file, `model_config.json` last. That file is missing after the process was
killed; other files may be cut short after the machine stopped. So every file is checked by its own format.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from finephrase_dagster.train.checkpoint import steps_in

LAST_WRITTEN = "model_config.json"
METADATA = "checkpoint_metadata.json"
WEIGHT_PART = re.compile(r"_tp-rank-(\d+)-of-(\d+)")
STATE_PART = re.compile(r"_pp-(\d+)-of-(\d+)_tp-(\d+)-of-(\d+)")


def delete_older(folder: Path, *, than: int) -> None:
    """Delete all checkpoints before a step except the latest two; nanotron itself keeps every one."""
    for step in sorted(step for step in steps_in(folder) if step < than)[:-2]:
        shutil.rmtree(folder / str(step), ignore_errors=True)


def is_complete(checkpoint: Path, step: int) -> bool:
    """Return whether all files of a checkpoint are complete, and it is the checkpoint of this step."""
    model, metadata = read_json(checkpoint / LAST_WRITTEN), read_json(checkpoint / METADATA)
    try:
        of_step = metadata["metas"]["last_train_step"] == step
        parts = int(metadata["tp"])
        layers = int(model["num_hidden_layers"])
    except (KeyError, TypeError, ValueError):
        return False
    return of_step and _has_weights(checkpoint / "model", parts, layers) and _has_states(checkpoint)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _has_weights(model: Path, parts: int, layers: int) -> bool:
    """Return whether each file has the length that its header gives, and no parameter or part of one is missing."""
    files = sorted(model.rglob("*.safetensors"))
    shared = Counter(file.parent for file in files if WEIGHT_PART.search(file.name))
    return (
        # A layer has four matrices and two norms; there are also the embeddings and the last norm.
        len(shared) == 4 * layers + 1
        and set(shared.values()) == {parts}
        and len(files) - shared.total() == 2 * layers + 1
        and all(_has_full_length(file) for file in files)
    )


def _has_full_length(file: Path) -> bool:
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
    """Return whether optimizer and schedule are complete for each part of the model, as the zip files of torch.save."""
    for kind in ("optimizer", "lr_scheduler"):
        files = list((checkpoint / kind).glob("*.pt"))
        parts = [match.groups() for file in files if (match := STATE_PART.search(file.name))]
        expected = {int(stages) * int(shards) for _, stages, _, shards in parts}
        present = {(stage, shard) for stage, _, shard, _ in parts}
        if expected != {len(present)} or not all(zipfile.is_zipfile(file) for file in files):
            return False
    return True
