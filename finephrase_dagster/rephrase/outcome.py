"""The outcome of an input row, and its line in a journal.

A line is eight hex digits of a CRC-32, a space, and JSON. A line that was cut off by a crash or damaged on the disk
does not match its checksum and is ignored, so its row is sent again.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A row with its completion.

    `cleaned` names the rules that removed something, joined by commas; `raw` is the completion before cleaning, if it
    is kept.
    """

    id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    document_cut: bool
    document_sha256: str
    cleaned: str = ""
    raw: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row without a completion."""

    id: str
    status: Literal["skipped", "failed"]
    reason: str


Outcome = Completed | Rejected


def journal_line(position: int, outcome: Outcome) -> bytes:
    """Return the line of an outcome; `position` is the row's index in its input file."""
    content = orjson.dumps([position, outcome])
    return b"%08x %b\n" % (zlib.crc32(content), content)


def journal_header(layout: str) -> bytes:
    """Return the first line of a journal, which holds the layout of the input that its positions refer to."""
    content = orjson.dumps({"layout": layout})
    return b"%08x %b\n" % (zlib.crc32(content), content)


def read_layout(journal: bytes) -> str:
    """Return the layout of the input in a journal's first line; "" if the line is damaged."""
    first = next(_contents(journal[: journal.find(b"\n") + 1]), None)
    return str(first["layout"]) if isinstance(first, dict) else ""


def read_journal(journal: bytes) -> Iterator[tuple[int, Outcome]]:
    """Yield position and outcome of each undamaged line."""
    for content in _contents(journal):
        if isinstance(content, list):
            position, fields = content
            yield position, Rejected(**fields) if "status" in fields else Completed(**fields)


def count_rules(cleaned: Iterable[str]) -> dict[str, int]:
    """Return how often each cleaning rule removed something, given the field `cleaned` of rows."""
    return Counter(rule for rules in cleaned if rules for rule in rules.split(","))


def _contents(journal: bytes) -> Iterator[Any]:
    for line in journal.split(b"\n"):
        if len(line) < 10 or line[8:9] != b" ":
            continue
        try:
            if int(line[:8], 16) != zlib.crc32(line[9:]):
                continue
        except ValueError:
            continue
        yield orjson.loads(line[9:])
