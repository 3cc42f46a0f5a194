"""The `finephrase` command. Exit status: 0 done, 1 failed or incomplete, 2 the request was wrong."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.commands.terminal import early_text, leaderboard_text, rephrased_text, where_to_look
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.logs import json_line, json_wanted, write_json_lines
from finephrase_dagster.orchestration.stores import StoreUnusable, refuse_unusable, server_failure
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.paths import REPOSITORY, Places

DONE, FAILED, WRONG = 0, 1, 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
results_app = typer.Typer(no_args_is_help=True, help="Scores: the comparison of all students.")
app.add_typer(results_app, name="results")

LAST_PORT = 65535
StudyOption = Annotated[
    Path | None,
    typer.Option("--study", help="The study file; default: FINEPHRASE_STUDY, else studies/demo.yaml."),
]


def main() -> None:
    """The entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped
    if json_wanted():
        write_json_lines()
    status = _status()
    if sys.argv[1:2] not in (["rephrase"], ["materialize"]):
        sys.exit(status)
    # All is written by now. Libraries' threads that still run while Python ends abort it now and then ("terminate
    # called without an active exception"), or tell at length what they did not free, and a finished run would end so.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status() -> int:
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else DONE if ended.code is None else FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
    return FAILED


@app.command()
def materialize(study: StudyOption = None) -> None:
    """Makes everything of a study that is missing or stale, stage by stage, in this process."""
    started = time.monotonic()
    say = _clock(started)
    with _explained(), _store_explained():
        places = _places(study)
        lineage = Lineage.read(places)
        home = _dagster_home()
        refuse_unusable(places, home)
        import dagster as dg

        for category in (dg.BetaWarning, dg.PreviewWarning):
            warnings.simplefilter("ignore", category)  # of Dagster's features that the version pinned here has

        from finephrase_dagster.definitions import defs
        from finephrase_dagster.orchestration.materialize import materialize_study
        from resources.rephraser import engines_kept

        with dg.DagsterInstance.from_config(str(home)) as instance:
            outcome = materialize_study(lineage, defs, instance, engines_kept=engines_kept, log=say)
        stopped = f", {len(outcome.stopped)} stopped early" if outcome.stopped else ""
        say(f"{len(outcome.made)} partitions made, {len(outcome.reused)} reused{stopped}")
        if not outcome.complete:
            for name, message in outcome.failed.items():
                _complain(f"failed: {name}: {message}")
            if outcome.waiting:
                _complain(f"not made, as something they need is missing: {len(outcome.waiting)} partitions")
            raise typer.Exit(FAILED)
        if not lineage.study.mixtures:
            return
        folder = lineage.leaderboard().folder
        typer.echo(leaderboard_text(_read(folder / "leaderboard.json")) + early_text(_read(folder / "early.json")))
        typer.echo(where_to_look(lineage))


class _ManyValues(TyperCommand):
    """A command whose options --input and --endpoint take several values, or stand several times."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in ("--input", "--endpoint") else None
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


@app.command(cls=_ManyValues)
def rephrase(
    inputs: Annotated[
        list[str], typer.Option("--input", metavar="FILE...", help="JSONL (plain, .gz, .zst) or Parquet: id and text.")
    ],
    prompt: Annotated[str, typer.Option(metavar="NAME[,NAME...]", help="Prompts, one dataset each.")],
    output: Annotated[str, typer.Option(metavar="DIR", help="Where DIR/<prompt> is made; a folder or s3://...")],
    generator: Annotated[str | None, typer.Option(metavar="NAME", help="A generator of the study.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="URL...", help="OpenAI-compatible servers, balanced.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The endpoint's name for its model.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="The model's; default: documents are cut by UTF-8 bytes.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens of prompt and completion; default: what the endpoint says.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a completion; default: the generator's, or 2048.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Default: the generator's, or the server's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Gives each row and prompt a seed of its own; default: likewise.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=20_000, help="Requests in flight.")] = 256,
    chunk_rows: Annotated[int, typer.Option(min=1, help="Rows a file.")] = 5000,
    limit: Annotated[int | None, typer.Option(min=1, max=2**62, help="Rows, from the first.")] = None,
    keep_raw: Annotated[bool, typer.Option("--keep-raw", help="Keep completions before cleaning, too.")] = False,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs behind the endpoints, for the bill.")] = None,
    gpu_hour_dollars: Annotated[float | None, typer.Option(min=0, help="Price of one for an hour.")] = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(metavar="PORT|FIRST-LAST", envvar="FINEPHRASE_METRICS_PORT", help="Serves Prometheus metrics."),
    ] = None,
    study: StudyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Rephrases the rows of files: one dataset a prompt, complete when DIR/<prompt>/manifest.json stands.

    Run again, it goes on where it was. FINEPHRASE_API_KEY is the endpoints' key.
    """
    with _explained():
        from finephrase_dagster.commands.rephrasing import Order, carry_out

        order = Order(
            inputs=inputs,
            prompts=[name.strip() for name in prompt.split(",") if name.strip()],
            output=output,
            generator=generator,
            endpoints=endpoint or [],
            model=model,
            tokenizer=tokenizer,
            context=context,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            concurrency=concurrency,
            chunk_rows=chunk_rows,
            limit=limit,
            keep_raw=keep_raw,
            gpus=gpus,
            gpu_hour_dollars=gpu_hour_dollars,
            metrics_port=metrics_port,
        )
        key = os.environ.get("FINEPHRASE_API_KEY") or None
        done = carry_out(order, places=_places(study), key=key, say=_clock(time.monotonic()))
        typer.echo(json.dumps(done, indent=2) if as_json else rephrased_text(done))


@app.command()
def plan(
    study: StudyOption = None,
    gpus: Annotated[int, typer.Option(min=1, help="That work at the same time.")] = 1,
    gpu_hour_dollars: Annotated[
        float | None, typer.Option(min=0, max=1e6, help="Price of one for an hour; default: the published 3 dollars.")
    ] = None,
    goodput: Annotated[
        float, typer.Option(min=0.001, max=1, help="Part of a GPU's time at work; the published run reached 0.44.")
    ] = 1.0,
    max_dollars: Annotated[
        float | None, typer.Option(min=0, help="Exit with status 1 if what would run costs more.")
    ] = None,
    every_item: Annotated[bool, typer.Option("--items", help="List every partition with its state.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """What a study would run, what exists already, and what it costs. Starts nothing."""
    with _explained():
        from finephrase_dagster.plan.plan import Terms
        from finephrase_dagster.plan.plan import plan as planned
        from finephrase_dagster.plan.published import Published
        from finephrase_dagster.plan.text import plan_text

        price = Published.read().gpu_hour_dollars if gpu_hour_dollars is None else gpu_hour_dollars
        _refuse_no_number({"--gpu-hour-dollars": price, "--goodput": goodput, "--max-dollars": max_dollars})
        found = planned(Lineage.read(_places(study)), Terms(gpus=gpus, gpu_hour_dollars=price, goodput=goodput))
        typer.echo(json.dumps(found.as_json(), indent=2) if as_json else plan_text(found, every_item=every_item))
        if max_dollars is None:
            return
        if found.unknown:
            _complain(f"error: it cannot be told what this costs: {'; '.join(found.unknown)}")
            raise typer.Exit(FAILED)
        if found.dollars > max_dollars:
            _complain(
                f"error: what would run costs {found.dollars:,.2f} dollars, more than {max_dollars:,.2f}; raise "
                "--max-dollars, or take partitions out of the study"
            )
            raise typer.Exit(FAILED)


def _refuse_no_number(options: dict[str, float | None]) -> None:
    for option, value in options.items():
        if value is not None and not math.isfinite(value):
            _complain(f"error: {option} {value} is no number that can be used")
            raise typer.Exit(WRONG)


@app.command()
def expand(study: StudyOption = None) -> None:
    """Prints a study with every entry in full: registries, defaults and grids put in. It is a study file itself."""
    with _explained():
        from finephrase_dagster.plan.text import expanded_text

        typer.echo(expanded_text(Lineage.read(_places(study)).study), nl=False)


@app.command()
def ui(
    study: StudyOption = None,
    port: Annotated[int, typer.Option(min=1, max=LAST_PORT, help="Port of Dagster's pages.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(min=1, max=LAST_PORT, help="Port of MLflow's pages.")] = 5000,
) -> None:
    """Serves Dagster's web UI and MLflow's on 127.0.0.1 until interrupted."""
    with _explained():
        places = _places(study)
        Lineage.read(places)
        from finephrase_dagster.orchestration.servers import serve

        serve(places, dagster_home=_dagster_home(), port=port, mlflow_port=mlflow_port, log=typer.echo)


@results_app.command()
def leaderboard(
    study: StudyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Prints the comparison of a study's mixtures."""
    with _explained():
        lineage = Lineage.read(_places(study))
        if not lineage.study.mixtures:
            raise StudyError(f"study {lineage.places.study}: has no mixtures, and thus no scores; name another study")
        artifact = lineage.leaderboard()
        artifact.manifest()
        rows = _read(artifact.folder / "leaderboard.json")
        early = _read(artifact.folder / "early.json")
        typer.echo(json.dumps(rows, indent=2) if as_json else leaderboard_text(rows) + early_text(early))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


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
        clock = f"[{time.monotonic() - started:6.1f} s] {message}"
        typer.echo(json_line(message) if json_wanted() else clock, err=True)

    return say


def _complain(message: str) -> None:
    level = "error" if message.startswith(("error: ", "failed: ")) else "warning"
    typer.echo(json_line(message, level=level) if json_wanted() else message, err=True)


@contextmanager
def _store_explained() -> Iterator[None]:
    """The same for Dagster's store, whose library only the commands that use it import."""
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except (StoreUnusable, typer.Exit):
        raise
    except Exception as error:
        reason = server_failure(error)
        remedy = "see that the server runs, then run again: what is finished is kept"
        if reason is None and isinstance(error, OperationalError):
            reason, remedy = str(error.orig), "make room in DAGSTER_HOME and FINEPHRASE_DATA"
            if not any(words in reason for words in ("full", "I/O error", "readonly", "unable to open")):
                raise
        if reason is None:
            raise
        _complain(f"error: the instance's store: {reason}; {remedy}")
        raise typer.Exit(FAILED) from error


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what a person can cause into one message and the right exit status."""
    try:
        yield
    except FinephraseError as error:
        _complain(f"error: {error}")
        raise typer.Exit(error.exit_status) from error
    except OSError as error:
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        place = f" at {error.filename}" if error.filename else ""
        _complain(f"error: {os.strerror(error.errno or 0)}{place}; make room there, or set FINEPHRASE_DATA")
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        _complain("interrupted; what is finished is kept, run the same command to go on")
        raise typer.Exit(FAILED) from error


if __name__ == "__main__":
    main()
