"""What a person who watches a study sees: the messages of its stages, their progress, and samples, as events."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.orchestration.logs import JsonLines, json_wanted


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Partitions of one asset are being materialized."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """A run has ended after so many seconds; `error` is its message if it failed."""

    name: str
    items: tuple[Item, ...]
    seconds: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Settled:
    """An item needs no run: it is reused, or was stopped early."""

    item: Item


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the current run is. `rate` is text; `sample` is one document's completions by prompt."""

    done: int
    total: int
    unit: str
    rate: str
    seconds_left: float | None = None
    sample: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of the current stage."""

    text: str


Event = RunStarted | RunEnded | Settled | Progress | Message
_listeners: list[Callable[[Event], None]] = []


@contextlib.contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Send the events of this process to a listener within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(event: Event) -> None:
    """Send an event to whoever listens."""
    for listener in _listeners:
        listener(event)


class _Messages(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"  {line}" for line in _text(record).splitlines())


class _Reports(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        report(Message(text=_text(record)))


def _text(record: logging.LogRecord) -> str:
    return str(getattr(record, "dagster_meta", {}).get("orig_message", record.getMessage()))


def _is_from_a_stage(record: logging.LogRecord) -> bool:
    return getattr(record, "dagster_meta", {}).get("dagster_event") is None


@dg.logger
def progress(_: dg.InitLoggerContext) -> logging.Logger:
    """Return a logger for runs in a process that a person watches, without Dagster's own events."""
    logger = logging.Logger("finephrase", level=logging.INFO)
    printing = logging.StreamHandler(sys.stderr)
    printing.setFormatter(JsonLines() if json_wanted() else _Messages())
    for handler in (printing, _Reports()):
        handler.addFilter(_is_from_a_stage)
        logger.addHandler(handler)
    return logger
