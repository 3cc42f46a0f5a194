"""Why a setting could not be measured, as the log of its engine shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from finephrase_dagster.artifacts.processes import last_lines
from finephrase_dagster.rephrase.engine import last_errors

Kind = Literal["out of memory", "time-out", "start failure", "other"]

_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory|No available memory for the cache|"
    r"larger than the available KV cache|less than (desired|requested) .*(memory|utilization)|"
    r"not enough GPU memory|memory ran out",
    re.IGNORECASE,
)


class Mishap(NamedTuple):
    """The kind of a failure, and the line of the log that shows it."""

    kind: Kind
    line: str


def classify(log: Path, *, started: bool, timed_out: bool) -> Mishap:
    """Return why an engine could not be measured.

    A lack of memory is looked for first, because what follows it in a log, such as a failed start, is its consequence.

    Args:
        log: of this engine alone.
        started: whether it had answered.
        timed_out: whether it was stopped because it took too long.
    """
    errors = [line.strip() for line in last_errors(log).splitlines()] or [""]
    for line in (*errors, *last_lines(log)):
        if _NO_MEMORY.search(line):
            return Mishap("out of memory", line)
    return Mishap("time-out" if timed_out else "other" if started else "start failure", errors[0])
