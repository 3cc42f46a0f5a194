"""The `finephrase` command: its subcommands, and how errors become messages and exit statuses."""

from __future__ import annotations

from finephrase_dagster.commands import interruption

if __name__ == "__main__":  # as a module, the command begins here
    interruption.end_at_once()

import errno
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from finephrase_dagster.commands.audit import audit
from finephrase_dagster.commands.expand import expand
from finephrase_dagster.commands.extras import missing_extra
from finephrase_dagster.commands.gc import gc
from finephrase_dagster.commands.init import init
from finephrase_dagster.commands.materialize import materialize
from finephrase_dagster.commands.plan import plan
from finephrase_dagster.commands.preview import preview
from finephrase_dagster.commands.release import release
from finephrase_dagster.commands.rephrase import ManyValues, rephrase
from finephrase_dagster.commands.report import report
from finephrase_dagster.commands.results import app as results
from finephrase_dagster.commands.schema import schema
from finephrase_dagster.commands.show import show
from finephrase_dagster.commands.sweep import sweep
from finephrase_dagster.commands.terminal import complain, silence_libraries
from finephrase_dagster.commands.trace import trace
from finephrase_dagster.commands.ui import ui
from finephrase_dagster.commands.usage import USAGE, is_usage_error, usage_message
from finephrase_dagster.commands.verify import verify
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.logs import check_log_format

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class Commands(TyperGroup):
    """Turns the errors that a person can cause into one message and the right exit status."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().make_context(*arguments, **options)
        except TyperException as error:
            raise _refused(error) from error
        except KeyboardInterrupt as error:
            raise _interrupted() from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TyperException as error:
            raise _refused(error) from error
        except FinephraseError as error:
            complain(f"error: {error}")
            raise typer.Exit(error.exit_status) from error
        except ImportError as error:
            if (missing := missing_extra(error)) is None:
                raise
            complain(f"error: {missing}")
            raise typer.Exit(missing.exit_status) from error
        except OSError as error:
            if not error.filename and error.errno not in DISK_ERRORS:
                raise
            place = f"{error.filename}: " if error.filename else ""
            remedy = "Check the path, or name one that you may use, as with --output."
            if error.errno in DISK_ERRORS:
                remedy = "Make room, or set FINEPHRASE_DATA to a folder on a larger disk."
            complain(f"error: {place}{os.strerror(error.errno or 0)}. {remedy}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            raise _interrupted() from error


def _refused(error: TyperException) -> Exception:
    """Print a usage error as one line, and return what ends the command; other errors are returned as they are."""
    if not is_usage_error(error):
        return error
    complain(f"error: {usage_message(error)}")
    return typer.Exit(USAGE)


def _interrupted() -> typer.Exit:
    """Print that the command was interrupted, and return what ends it."""
    complain(interruption.MESSAGE)
    return typer.Exit(1)


HELP = """Turn web text into synthetic training data, and measure whether it makes a better model.

Exit status: 0 done; 1 the work failed, is incomplete or was interrupted; 2 the request was wrong.
"""

app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"finephrase {version('finephrase-dagster')}")
        raise typer.Exit


@app.callback(help=HELP)
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options that come before the command, and check the environment variable of all commands."""
    check_log_format()


app.command(short_help="Write a study of your own, to start from.")(init)
app.command(cls=ManyValues, short_help="Run what is missing or stale in a study.")(materialize)
app.command(cls=ManyValues, short_help="Rephrase a few documents, to look at them.")(preview)
app.command(cls=ManyValues, short_help="Rephrase documents with a language model.")(rephrase)
app.command(short_help="Check the quality of a synthetic dataset.")(audit)
app.command(short_help="Show what would run, and what it would cost.")(plan)
app.command(short_help="Find the fastest settings of a generator's engine.")(sweep)
app.command(short_help="Show one item of a study: its state, recipe, files and cost.")(show)
app.command(short_help="Trace scores down to documents, or a document up to scores.")(trace)
app.command(short_help="Print a study file in full.")(expand)
app.command(short_help="Print the JSON schema of study files, for editors.")(schema)
app.command(short_help="Write a page with a study's answer and its figures.")(report)
app.command(short_help="Publish a study's datasets as one dataset.")(release)
app.command(short_help="Check the files of datasets and other artifacts.")(verify)
app.command(short_help="Delete artifacts that no study needs any more.")(gc)
app.command(short_help="Serve the web pages of Dagster and MLflow.")(ui)
app.add_typer(results, name="results")


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    interruption.raise_interrupts()
    status = _status()
    interruption.ignore()
    if sys.argv[1:2] not in (["rephrase"], ["materialize"], ["preview"], ["sweep"]):
        sys.exit(status)
    # All is written by now. Threads of libraries that still run while Python ends sometimes abort it ("terminate called
    # without an active exception") or print a long list of what they did not free, although the run has finished.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status() -> int:
    """Run the command and return its exit status."""
    try:
        silence_libraries()
        app(prog_name="finephrase")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except BaseException:
        if not interruption.received:
            raise
        complain(interruption.MESSAGE)  # whatever a library made of the interrupt
    return 1


if __name__ == "__main__":
    main()
