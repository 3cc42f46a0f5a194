"""The journal of a corpus that is being written: one line per finished shard, so that an interrupted run can resume.

A line is appended after its shard has its final name, so it describes what is on disk: the shard, the reader's
position behind it, and the figures so far. A last line that was cut off is ignored. Lines are appended, because
rewriting the file after each of 34,000 shards would take longer with every one.
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

JOURNAL = "journal.jsonl"
BROKEN = "journal.broken"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard, as a manifest lists it; `path` is relative to the corpus."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """The state after a shard: the position of the reader, and the figures (`Tally.saved`)."""

    shard: Shard
    position: Position
    tally: dict[str, Any]


class CorpusJournal:
    """The journal in the folder of a corpus.

    Attributes:
        shards: the finished shards, in order.
        last: the entry of the last one; None if there is none.
    """

    def __init__(self, folder: Path, header: dict[str, Any], log: Callable[[str], None]) -> None:
        """Continue the journal that is there if it begins with `header`; otherwise set it aside and begin a new one.

        Entries are valid up to the first whose shard is not on disk as it was written.
        """
        self._folder, self._path = folder, folder / JOURNAL
        lines = _complete_lines(self._path)
        entries = [] if not lines or lines[0] != header else [_entry(line) for line in lines[1:]]
        if self._path.exists() and (not lines or lines[0] != header or None in entries):
            self._path.rename(folder / BROKEN)
            log(f"{self._path} is broken or describes other rows: renamed to {BROKEN}; all shards are written again")
            entries = []
        valid = [entry for entry in entries if entry is not None]
        missing = (index for index, entry in enumerate(valid) if not self._is_on_disk(entry.shard))
        valid = valid[: next(missing, len(valid))]
        self.shards = [entry.shard for entry in valid]
        self.last = valid[-1] if valid else None
        with atomic_write(self._path) as temporary:
            temporary.write_bytes(b"".join(map(_line, [header, *map(asdict, valid)])))

    def add(self, entry: JournalEntry) -> None:
        """Append the entry of a finished shard."""
        with self._path.open("ab") as file:
            file.write(_line(asdict(entry)))
            file.flush()
            os.fsync(file.fileno())
        self.shards.append(entry.shard)
        self.last = entry

    def _is_on_disk(self, shard: Shard) -> bool:
        path = self._folder / shard.path
        return path.is_file() and path.stat().st_size == shard.bytes


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _complete_lines(path: Path) -> list[Any]:
    """Return the values of a journal's complete lines; None for a line that is not JSON."""
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [_parsed(line) for line in lines]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _entry(value: Any) -> JournalEntry | None:
    try:
        tally = Tally.of(value["tally"]).saved()
        return JournalEntry(shard=Shard(**value["shard"]), position=dict(value["position"]), tally=tally)
    except (TypeError, KeyError, ValueError):
        return None
