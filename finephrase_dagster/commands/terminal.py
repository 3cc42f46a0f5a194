"""What the commands print: results on standard output, everything else on standard error.

Libraries print nothing: their warnings, log records and progress bars do not concern the person at the terminal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finephrase_dagster.orchestration.logs import json_line, json_wanted, write_json_lines

if TYPE_CHECKING:
    from rich.console import Console

LIBRARY_SETTINGS = {
    "LOGURU_AUTOINIT": "False",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",  # said, so that a fork is not commented on
}
WIDEST = 240  # characters; a terminal that is narrower wraps the lines, so that no number is cut off


def silence_libraries() -> None:
    """Keep what libraries print away from the terminal.

    Python's -W option and PYTHONWARNINGS bring warnings back. With FINEPHRASE_LOG_FORMAT=json, log records and warnings
    become JSON lines on standard error instead.
    """
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    if json_wanted():
        write_json_lines()
        return
    logging.lastResort = _OwnWarnings(logging.WARNING)  # for loggers that nobody has configured
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


class _OwnWarnings(logging.Handler):
    """Prints the warnings of this package, and leaves out those of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("finephrase_dagster"):
            complain(f"warning: {record.getMessage()}")


def clock(first: str = "") -> Callable[[str], None]:
    """Return a function that prints a message on standard error, with the seconds since this call; print `first`."""
    started = time.monotonic()

    def log(message: str) -> None:
        line = json_line(message) if json_wanted() else f"[{time.monotonic() - started:6.1f} s] {message}"
        typer.echo(line, err=True)

    if first:
        log(first)
    return log


@contextlib.contextmanager
def screen(log: Path) -> Iterator[Console | None]:
    """Yield a console on the terminal, to which nothing else prints within the block; None if there is no terminal.

    What libraries and child processes print is appended to a log file.
    """
    if json_wanted() or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield None
        return
    from rich.console import Console, ConsoleDimensions

    class Screen(Console):
        """A console that asks its own file for the size: standard output and error are the log within the block."""

        @property  # type: ignore[misc]
        def size(self) -> ConsoleDimensions:
            columns, lines = os.get_terminal_size(self.file.fileno())
            return ConsoleDimensions(columns or 80, lines or 24)

    log.parent.mkdir(parents=True, exist_ok=True)
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(stream.fileno()) for stream in streams]
    with log.open("ab") as file, open(kept[1], "w", encoding="utf-8", closefd=False) as terminal:
        for stream in streams:
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        try:
            yield Screen(file=terminal, highlight=False, markup=False, emoji=False)
        finally:
            for stream, number in zip(streams, kept, strict=True):
                stream.flush()
                os.dup2(number, stream.fileno())
                os.close(number)


def complain(message: str) -> None:
    """Print an error or a warning on standard error."""
    level = "error" if message.startswith(("error: ", "failed: ")) else "warning"
    typer.echo(json_line(message, level=level) if json_wanted() else message, err=True)


def printable(text: str) -> str:
    """Return text on one line, without anything that a terminal would execute."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))


def print_text(text: str, *, indent: str = "") -> None:
    """Print a paragraph on standard output; a terminal does not break it within words."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    typer.echo(text)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(document, indent=2))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, names: int = 1) -> None:
    """Print a table on standard output; the first `names` columns are text, the others numbers.

    On a terminal that is too narrow for it, the last columns are left out and named below.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    headings, cells = [*columns], [[*row] for row in rows]
    console = Console(width=None if sys.stdout.isatty() else WIDEST, markup=False, highlight=False)
    for shown in range(len(headings), names, -1):
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for position, column in enumerate(headings[:shown]):
            table.add_column(column, justify="left" if position < names else "right", no_wrap=True)
        for row in cells:
            table.add_row(*row[:shown])
        if table.__rich_measure__(console, console.options.update(max_width=WIDEST)).maximum <= console.width:
            break
    console.print(table, soft_wrap=True)
    if shown < len(headings):
        typer.echo(f"Not shown, because the terminal is too narrow: {', '.join(headings[shown:])}.")
