"""What the commands print: results on standard output, everything else on standard error.

Libraries print nothing: their warnings, log records and progress bars do not concern the person at the terminal.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import typer

from finephrase_dagster.orchestration.logs import json_line, json_wanted, write_json_lines

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
    logging.lastResort = None  # otherwise Python prints the warnings of loggers that nobody has configured
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def clock() -> Callable[[str], None]:
    """Return a function that prints a message on standard error, with the seconds since this call."""
    started = time.monotonic()

    def log(message: str) -> None:
        line = json_line(message) if json_wanted() else f"[{time.monotonic() - started:6.1f} s] {message}"
        typer.echo(line, err=True)

    return log


def leave_terminal(*_: object) -> None:
    """Handle the end of the terminal (SIGHUP) like Ctrl-C; what is still printed is discarded, not an error."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the shell and the kernel both send it
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
            os.dup2(nowhere, stream.fileno())
    signal.raise_signal(signal.SIGINT)


def complain(message: str) -> None:
    """Print an error or a warning on standard error."""
    level = "error" if message.startswith(("error: ", "failed: ")) else "warning"
    typer.echo(json_line(message, level=level) if json_wanted() else message, err=True)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(document, indent=2))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, names: int = 1) -> None:
    """Print a table on standard output; the first `names` columns are text, the others numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < names else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=WIDEST, markup=False, highlight=False).print(table)
