"""What became of an input row, and how a journal writes it down.

A record is one line: eight hex digits of a CRC-32, a space, JSON. A line that was cut off by a death, or
spoiled on the disk, does not match its sum; its row is simply done again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A row with its completion; `raw` is the completion before it was cleaned, where that is kept."""

    id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    document_cut: bool
    document_sha256: str
    raw: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row without one."""

    id: str
    status: Literal["skipped", "failed"]
    reason: str


Outcome = Completed | Rejected


def record(place: int, outcome: Outcome) -> bytes:
    """The line of an outcome; `place` orders the rows of a chunk."""
    content = orjson.dumps([place, outcome])
    return b"%08x %b\n" % (zlib.crc32(content), content)


def records(journal: bytes) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of a journal, without the lines that are not whole."""
    for line in journal.split(b"\n"):
        if len(line) < 10 or line[8:9] != b" ":
            continue
        try:
            if int(line[:8], 16) != zlib.crc32(line[9:]):
                continue
        except ValueError:
            continue
        place, fields = orjson.loads(line[9:])
        yield place, Rejected(**fields) if "status" in fields else Completed(**fields)
