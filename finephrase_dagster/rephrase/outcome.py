"""The outcome of an input row, and its line in a journal.

A line is eight hex digits of a CRC-32, a space, and JSON. A line that was cut off by a crash or damaged on the disk
does not match its checksum and is ignored, so its row is sent again.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import orjson

Discarded = Sequence[int]
"""The number of a row's rollouts that are not its outcome, their prompt tokens and their completion tokens."""
NONE: Discarded = (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A row with its completion.

    `cleaned` names the rules that removed something, joined by commas; `raw` is the completion before cleaning, if it
    is kept; `reused` is the fingerprint of the earlier dataset that the completion is from, if no request was sent.
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
    discarded: Discarded = NONE
    reused: str = ""

    @property
    def rollouts(self) -> int:
        """How often the row was drawn."""
        return 1 + self.discarded[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row without a completion."""

    id: str
    status: Literal["skipped", "failed"]
    reason: str
    discarded: Discarded = NONE


Outcome = Completed | Rejected


class Rollout(NamedTuple):
    """One of several outcomes that were drawn for a row, and the gates that it fails."""

    outcome: Outcome
    flaws: tuple[str, ...]


def with_discarded(outcome: Outcome, discarded: Iterable[Discarded]) -> Outcome:
    """Return an outcome to which rollouts that were not kept are added."""
    return replace(outcome, discarded=total_discarded([outcome.discarded, *discarded]))


def total_discarded(discarded: Iterable[Discarded]) -> tuple[int, int, int]:
    """Return the sums of what rows discarded."""
    rollouts, prompt_tokens, completion_tokens = map(sum, zip(NONE, *discarded, strict=True))
    return rollouts, prompt_tokens, completion_tokens


def journal_line(position: int, outcome: Outcome) -> bytes:
    """Return the line of an outcome; `position` is the row's index in its input file."""
    return _line(orjson.dumps([position, outcome]))


def rollout_line(position: int, number: int, rollout: Rollout) -> bytes:
    """Return the line of a rollout after which the row is drawn again; `number` counts its rollouts from 0."""
    return _line(orjson.dumps([position, rollout.outcome, number, rollout.flaws]))


def journal_header(layout: str) -> bytes:
    """Return the first line of a journal, which holds the layout of the input that its positions refer to."""
    return _line(orjson.dumps({"layout": layout}))


def read_layout(journal: bytes) -> str:
    """Return the layout of the input in a journal's first line; "" if the line is damaged."""
    first = next(_contents(journal[: journal.find(b"\n") + 1]), None)
    return str(first["layout"]) if isinstance(first, dict) else ""


def read_journal(journal: bytes) -> Iterator[tuple[int, Outcome]]:
    """Yield position and outcome of each undamaged line."""
    for content in _contents(journal):
        if isinstance(content, list) and len(content) == 2:
            yield content[0], _outcome(content[1])


def read_rollouts(journal: bytes) -> Iterator[list[Any]]:
    """Yield the undamaged lines of rollouts as JSON: position, outcome, number, flaws."""
    return (content for content in _contents(journal) if isinstance(content, list) and len(content) == 4)


def add_rollout(drawn: dict[str, dict[int, Rollout]], line: Sequence[Any]) -> None:
    """Add a rollout that `read_rollouts` returned to those of its row, by the row's id and by number."""
    _, fields, number, flaws = line
    drawn.setdefault(fields["id"], {})[number] = Rollout(_outcome(fields), tuple(flaws))


def count_rules(cleaned: Iterable[str]) -> dict[str, int]:
    """Return how often each cleaning rule removed something, given the field `cleaned` of rows."""
    return Counter(rule for rules in cleaned if rules for rule in rules.split(","))


def is_reused(outcome: Outcome) -> bool:
    """Return whether an outcome is from an earlier dataset, so that this one spent nothing on it."""
    return isinstance(outcome, Completed) and bool(outcome.reused)


def count_reused(completed: Iterable[Completed]) -> dict[str, list[int]]:
    """Return the number of reused completions, their prompt tokens and completion tokens, by their datasets."""
    by_dataset: dict[str, list[Discarded]] = {}
    for row in completed:
        if row.reused:
            by_dataset.setdefault(row.reused, []).append((1, row.prompt_tokens, row.completion_tokens))
    return {name: list(total_discarded(counts)) for name, counts in by_dataset.items()}


def _outcome(fields: dict[str, Any]) -> Outcome:
    return Rejected(**fields) if "status" in fields else Completed(**fields)


def _line(content: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(content), content)


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
