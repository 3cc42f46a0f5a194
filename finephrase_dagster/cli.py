"""The `finephrase` command. Exit status: 0 done, 1 failed or incomplete, 2 the request was wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import OperationalError

from finephrase_dagster.study.artifact import ArtifactBusy, ArtifactMissing
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.lineage import Lineage
from finephrase_dagster.study.places import REPOSITORY, Places
from finephrase_dagster.study.prompt import PromptError

FAILED, WRONG = 1, 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
results_app = typer.Typer(no_args_is_help=True, help="Scores: the comparison of all students.")
app.add_typer(results_app, name="results")

StudyOption = Annotated[
    Path | None,
    typer.Option("--study", help="The study file; default: FINEPHRASE_STUDY, else studies/demo.yaml."),
]


def main() -> None:
    """The entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped
    app()


@app.command()
def materialize(study: StudyOption = None) -> None:
    """Makes everything of a study that is missing or stale, stage by stage, in this process."""
    started = time.monotonic()
    say = _clock(started)
    with _explained():
        lineage = Lineage.read(_places(study))
        import dagster as dg

        for category in (dg.BetaWarning, dg.PreviewWarning):
            warnings.simplefilter("ignore", category)  # of Dagster's features that the version pinned here has

        from finephrase_dagster.definitions import defs
        from finephrase_dagster.materialize import materialize_study

        with dg.DagsterInstance.from_config(str(_dagster_home())) as instance:
            outcome = materialize_study(lineage, defs, instance, log=say)
        say(f"{len(outcome.made)} partitions made, {len(outcome.reused)} reused")
        if not outcome.complete:
            for name, message in outcome.failed.items():
                typer.echo(f"failed: {name}: {message}", err=True)
            if outcome.waiting:
                typer.echo(
                    f"not made, as something they need is missing: {len(outcome.waiting)} partitions",
                    err=True,
                )
            raise typer.Exit(FAILED)
        rows = json.loads((lineage.leaderboard().folder / "leaderboard.json").read_text(encoding="utf-8"))
        typer.echo(leaderboard_text(rows))
        typer.echo(_where_to_look(lineage))


@app.command()
def ui(
    study: StudyOption = None,
    port: Annotated[int, typer.Option(help="Port of Dagster's pages.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's pages.")] = 5000,
) -> None:
    """Serves Dagster's web UI and MLflow's on 127.0.0.1 until interrupted."""
    with _explained():
        places = _places(study)
        Lineage.read(places)
        from finephrase_dagster.webui import PagesStopped, PortInUse, serve

        try:
            serve(places, dagster_home=_dagster_home(), port=port, mlflow_port=mlflow_port, log=typer.echo)
        except (PortInUse, PagesStopped) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FAILED) from error


@results_app.command()
def leaderboard(
    study: StudyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Prints the comparison of a study's mixtures."""
    with _explained():
        artifact = Lineage.read(_places(study)).leaderboard()
        artifact.manifest()
        rows = json.loads((artifact.folder / "leaderboard.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps(rows, indent=2) if as_json else leaderboard_text(rows))


def leaderboard_text(rows: list[dict[str, Any]]) -> str:
    """The leaderboard as a table for a terminal, best first."""
    categories = list(rows[0]["categories"]) if rows else []
    head = f"{'mixture':<24} {'student':<10} {'macro':>7} {'± sd':>7} {'seeds':>5} {'micro':>7}"
    lines = [head + "".join(f" {category:>6}" for category in categories)]
    for row in rows:
        figures = "".join(f" {row['categories'][category]:>6.4f}" for category in categories)
        lines.append(
            f"{row['mixture']:<24} {row['student']:<10} {_figure(row['macro'])} {_figure(row['macro_sd'])} "
            f"{row['seeds']:>5} {_figure(row['micro'])}{figures}"
        )
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return f"{value:7.4f}" if value is not None else f"{'-':>7}"


def _where_to_look(lineage: Lineage) -> str:
    return (
        "\nmacro: mean over six categories of the probability a token of the right answer gets; "
        "± sd: its standard deviation over seeds.\n"
        f"Scores, audits and manifests: {lineage.places.warehouse} (DuckDB)\n"
        f"Datasets and checkpoints:     {lineage.places.data}\n"
        "Lineage, checks and previews: make ui, then http://127.0.0.1:3000\n"
        "Loss curves and ablations:    make ui, then http://127.0.0.1:5000"
    )


def _places(study: Path | None) -> Places:
    if study is not None:
        os.environ["FINEPHRASE_STUDY"] = str(study.resolve())  # the code location reads it, too
    return Places.from_environment()


def _dagster_home() -> Path:
    home = REPOSITORY / (os.environ.get("DAGSTER_HOME") or "dagster_home")
    if not (home / "dagster.yaml").is_file():
        raise StudyError(f"DAGSTER_HOME {home} has no dagster.yaml; copy dagster_home/dagster.yaml there")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _clock(started: float) -> Callable[[str], None]:
    def say(message: str) -> None:
        typer.echo(f"[{time.monotonic() - started:6.1f} s] {message}", err=True)

    return say


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what a person can cause into one message and the right exit status."""
    try:
        yield
    except (StudyError, PromptError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(WRONG) from error
    except (ArtifactMissing, ArtifactBusy) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(FAILED) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        place = f" at {error.filename}" if error.filename else ""
        typer.echo(
            f"error: {os.strerror(error.errno or 0)}{place}; make room there, or set FINEPHRASE_DATA",
            err=True,
        )
        raise typer.Exit(FAILED) from error
    except OperationalError as error:
        reason = str(error.orig)
        if not any(words in reason for words in ("full", "I/O error", "readonly", "unable to open")):
            raise
        typer.echo(f"error: the instance's store: {reason}; make room in DAGSTER_HOME and FINEPHRASE_DATA", err=True)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        typer.echo("interrupted; what is finished is kept, run the same command to go on", err=True)
        raise typer.Exit(FAILED) from error


if __name__ == "__main__":
    main()
