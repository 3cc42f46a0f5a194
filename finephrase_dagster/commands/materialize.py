"""The `materialize` command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finephrase_dagster.artifacts.key import LEADERBOARD
from finephrase_dagster.commands.leaderboard import print_leaderboard, print_unfinished
from finephrase_dagster.commands.options import StudyOption, dagster_home, paths_of
from finephrase_dagster.commands.terminal import clock, complain, screen
from finephrase_dagster.orchestration.logs import LOG_FORMAT, write_json_lines
from finephrase_dagster.rephrase.statistics import duration
from finephrase_dagster.study.fields import shorten
from finephrase_dagster.study.paths import materialize_command, program, require_clone, shown_path

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.graph import Item
    from finephrase_dagster.artifacts.lineage import Lineage
    from finephrase_dagster.orchestration.materialize import Outcome

TRAINING = "training/"
MOST_REASONS = 4  # that an item is stale, in a dry run; `show` has all

LogFormat = Literal["text", "json"]


def materialize(
    study: StudyOption = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Print lines instead of the live view: text, or JSON objects.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ITEM...",
            help="Only these items and what they need. Names of items (as plan --items prints them), assets or "
            "stages; * matches any characters.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run, and why; start nothing.")] = False,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going/--stop-at-failure",
            help="After a failure, continue with what does not depend on it, or stop.",
        ),
    ] = True,
) -> None:
    """Materialize everything in a study that is missing or stale, in this process.

    The stages run one after another: sources, generators, synthetic datasets and their audits, tokenized data,
    mixtures, training, evaluation, the release. What exists already is reused. Run the same command again to resume
    after an interruption.

    \b
    Examples:
      finephrase materialize
      finephrase materialize --study studies/mine.yaml
      finephrase materialize --select audits synthetic/rephraser__package_readmes/faq --dry-run
    """
    from finephrase_dagster.artifacts.graph import items
    from finephrase_dagster.artifacts.item_names import select_items
    from finephrase_dagster.catalogue import read_lineage

    require_clone("finephrase materialize")
    if log_format == "json":
        os.environ[LOG_FORMAT] = "json"
        write_json_lines()
    log = clock()
    paths = paths_of(study)
    lineage = read_lineage(paths)
    graph = {item.name: item for item in items(lineage.snapshot())}
    chosen = select_items(graph, select) if select else None
    if dry_run:
        _print_due([item for item in graph.values() if chosen is None or item.name in chosen])
        return
    home = dagster_home()
    with _store_failures_explained():
        from finephrase_dagster.orchestration.stores import TRACKING_URI, open_instance, refuse_unusable

        refuse_unusable(paths, home)
        store = paths.tracking_store
        lost_tracking = not os.environ.get(TRACKING_URI) and not (store.exists() and store.stat().st_size)
        from finephrase_dagster.definitions import defs, record_in_mlflow
        from finephrase_dagster.orchestration.materialize import materialize_study
        from finephrase_dagster.results.leaderboard import record_study
        from finephrase_dagster.results.warehouse import writing
        from resources.rephraser import engines_kept

        with (
            _resuming(lineage),
            open_instance(home) as instance,
            _watching(lineage, log, live=log_format is None, only=chosen) as log_line,
        ):
            outcome = materialize_study(
                lineage, defs, instance, only=chosen, keep_going=keep_going, engines_kept=engines_kept, log=log_line
            )
            if lost_tracking and any(name.startswith(TRAINING) for name in outcome.reused):
                log_line(f"MLflow's store {store} had no tables; the students are recorded again")
                record_in_mlflow(lineage, instance, log=log_line)
            with writing(paths.warehouse) as connection:
                record_study(lineage.snapshot(), connection)
    _print_outcome(
        lineage, outcome, log, everything=chosen is None, compared=chosen is None or LEADERBOARD.asset in chosen
    )


def _print_outcome(
    lineage: Lineage, outcome: Outcome, log: Callable[[str], None], *, everything: bool, compared: bool
) -> None:
    """Print what was made, the leaderboard if it was made, and what to do next.

    Args:
        everything: whether the complete study was to be materialized.
        compared: whether its leaderboard was.

    Raises:
        typer.Exit: not everything that was wanted could be made.
    """
    stopped = f", {len(outcome.stopped)} stopped early" if outcome.stopped else ""
    counts = f"{len(outcome.made)} partitions materialized, {len(outcome.reused)} reused{stopped}"
    log(f"{lineage.study.name}: {counts}")
    if not outcome.complete:
        if lineage.study.mixtures and everything:
            print_unfinished(lineage)
        for message, names in _by_cause(outcome.failed).items():
            complain(f"failed: {shorten(names)}: {message}")
        if outcome.waiting:
            complain(f"{len(outcome.waiting)} partitions wait for something that is missing")
        complain(f"{lineage.study.name} is not complete. To resume: {materialize_command(lineage.paths.study)}")
        raise typer.Exit(1)
    if lineage.study.mixtures and compared:
        print_leaderboard(lineage)
    _print_times(outcome)
    _print_next_steps(lineage)


def _by_cause(failed: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what failed by its message; a mixture fails with that of an audit, after its own name."""
    causes: dict[str, list[str]] = {}
    for name, message in failed.items():
        causes.setdefault(next(filter(message.endswith, causes), message), []).append(name)
    return causes


def _print_due(items: Sequence[Item]) -> None:
    """Print which items are not current, and why."""
    from finephrase_dagster.artifacts.graph import states

    known = states({item.name: item for item in items})
    due = {name: state for name, state in known.items() if state.status in ("missing", "stale")}
    for name, state in due.items():
        reasons = [*state.reasons[:MOST_REASONS], *["..."] * (len(state.reasons) > MOST_REASONS)]
        typer.echo(f"{name}: {state.status}{': ' if reasons else ''}{'; '.join(reasons)}")
    typer.echo(f"{len(due)} partitions would be materialized, {len(known) - len(due)} exist already")


@contextmanager
def _watching(
    lineage: Lineage, log: Callable[[str], None], *, live: bool, only: Collection[str] | None
) -> Iterator[Callable[[str], None]]:
    """Show the live view within the block where there is a terminal; yield what prints a line."""
    from finephrase_dagster.artifacts.graph import items
    from finephrase_dagster.orchestration.progress import listening
    from finephrase_dagster.plan.forecast import Forecast

    study, snapshot = lineage.study, lineage.snapshot()
    every = [item for item in items(snapshot) if only is None or item.name in only]
    forecast = Forecast.of(snapshot, every)
    with screen(lineage.paths.data / "logs" / "materialize.log") if live else nullcontext() as console:
        if console is None:
            from finephrase_dagster.commands.overall import OverallProgress

            with listening(OverallProgress(every, forecast, log)):
                yield log
            return
        from finephrase_dagster.commands.live import LiveView

        title = f"{study.name}: {study.description}" if study.description else study.name
        view = LiveView(title, every, console, forecast)
        with view.shown(), listening(view):
            yield view.log


@contextmanager
def _resuming(lineage: Lineage) -> Iterator[None]:
    """Print how to resume if the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt as error:
        complain(f"interrupted; what is finished is kept. To resume: {materialize_command(lineage.paths.study)}")
        raise typer.Exit(1) from error


def _print_times(outcome: Outcome) -> None:
    if total := sum(outcome.seconds.values()):
        shares = (f"{stage} {duration(seconds)}" for stage, seconds in outcome.seconds.items())
        typer.echo(f"\nTime: {duration(total)} ({', '.join(shares)})")


def _print_next_steps(lineage: Lineage) -> None:
    study = shlex.quote(shown_path(lineage.paths.study))
    steps = [("See the lineage, every row's source, the checks and the loss curves", f"{program()} ui --study {study}")]
    if lineage.study.mixtures:
        report = ("Write a page with the answer and its figures", f"{program()} report --study {study} --output report")
        steps.insert(0, report)
    if generator := next(iter(lineage.study.generators), None):
        command = f"{program()} rephrase --input FILE --prompt {lineage.study.prompts[0]} --output DIR"
        steps.append(("Rephrase texts of your own", f"{command} --generator {generator} --study {study}"))
    name, data = lineage.study.name, lineage.paths.data
    typer.echo(f"\nThe data, checkpoints and scores of {name} are in {data}. Next steps:")
    for what, command in steps:
        typer.echo(f"  {what}:\n    {command}")


@contextmanager
def _store_failures_explained() -> Iterator[None]:
    """Raise StoreUnusable, with a remedy, for a failure of Dagster's database.

    The library of databases is imported here, because other commands run without it.
    """
    from sqlalchemy.exc import OperationalError

    from finephrase_dagster.orchestration.stores import StoreUnusable, server_failure

    try:
        yield
    except StoreUnusable:
        raise
    except Exception as error:
        reason = server_failure(error)
        remedy = "Start the database server, then run the same command again: what is finished is kept."
        if reason is None and isinstance(error, OperationalError):
            reason, remedy = str(error.orig), "Make room in the folders DAGSTER_HOME and FINEPHRASE_DATA."
            if not any(words in reason for words in ("full", "I/O error", "readonly", "unable to open")):
                raise
        if reason is None:
            raise
        raise StoreUnusable(f"Dagster's database failed: {reason}. {remedy}") from error
