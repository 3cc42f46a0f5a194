"""How far the writing of a corpus has come: a journal with a line a finished shard, which outlives the process.

A line is added whole once its shard stands under its final name: what it says of the reader's position and of the
figures is true of the shards up to it. A last line that a dying process left half written does not count. A line and
not a whole file a shard: rewriting what has been said so far would take longer with every one of 34,000 shards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.corpora.reader import Position
from finephrase_dagster.corpora.tally import Tally

PROGRESS = "progress.jsonl"
ASIDE = "progress.broken"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard, as a manifest lists it; `path` is relative to the corpus."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is so after a shard: where the reader stands, and the figures (`Tally.saved`)."""

    shard: Shard
    position: Position
    tally: dict[str, Any]


class Progress:
    """The journal in a corpus's folder.

    Attributes:
        shards: those that are finished, in order.
        last: what is so after them; None where there are none.
    """

    def __init__(self, folder: Path, header: dict[str, Any], log: Callable[[str], None]) -> None:
        """Takes up the journal that is there, if it begins with `header`; sets any other aside and begins a new one.

        It counts up to its first shard that is not there as it was written.
        """
        self._folder, self._path = folder, folder / PROGRESS
        lines = _lines(self._path)
        steps = [] if not lines or lines[0] != header else [_step(line) for line in lines[1:]]
        if self._path.exists() and (not lines or lines[0] != header or None in steps):
            self._path.rename(folder / ASIDE)
            log(f"{self._path} is broken or of other rows: set aside as {ASIDE}; all shards are written again")
            steps = []
        whole = [step for step in steps if step is not None]
        absent = (place for place, step in enumerate(whole) if not self._stands(step.shard))
        whole = whole[: next(absent, len(whole))]
        self.shards = [step.shard for step in whole]
        self.last = whole[-1] if whole else None
        with atomic_write(self._path) as temporary:
            temporary.write_bytes(b"".join(map(_line, [header, *map(asdict, whole)])))

    def add(self, step: Step) -> None:
        """Adds a shard that is finished."""
        with self._path.open("ab") as file:
            file.write(_line(asdict(step)))
            file.flush()
            os.fsync(file.fileno())
        self.shards.append(step.shard)
        self.last = step

    def _stands(self, shard: Shard) -> bool:
        path = self._folder / shard.path
        return path.is_file() and path.stat().st_size == shard.bytes


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _lines(path: Path) -> list[Any]:
    """The whole lines of a journal; None for one that says nothing."""
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [_parsed(line) for line in lines]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _step(value: Any) -> Step | None:
    try:
        tally = Tally.of(value["tally"]).saved()
        return Step(shard=Shard(**value["shard"]), position=dict(value["position"]), tally=tally)
    except (TypeError, KeyError, ValueError):
        return None
