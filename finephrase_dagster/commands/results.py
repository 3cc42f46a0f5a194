"""The `results` commands."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.commands.compare import MetricOption, compare
from finephrase_dagster.commands.figures import NameOption, NoScores, figure, of_figure
from finephrase_dagster.commands.leaderboard import print_gate_warnings, print_leaderboard, print_rows, print_unfinished
from finephrase_dagster.commands.options import JsonOption, OptionWrong, StudyOption, dagster_home, paths_of
from finephrase_dagster.commands.propose import propose
from finephrase_dagster.commands.terminal import clock, complain, print_json
from finephrase_dagster.evaluate.metric import Metric
from finephrase_dagster.study.paths import materialize_command, require_clone

if TYPE_CHECKING:
    from finephrase_dagster.results.leaderboard import Leaderboard
    from finephrase_dagster.study.paths import Paths


app = typer.Typer(help="Compare the scores of a study's students.")


@app.command()
def leaderboard(
    name: NameOption = None,
    metric: MetricOption = "macro",
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a study's mixtures, best first.

    Their scores must exist already: `finephrase materialize` computes them, `finephrase results import` imports them.

    \b
    Examples:
      finephrase results leaderboard
      finephrase results leaderboard --study studies/mine.yaml --json
      finephrase results leaderboard --name playbook --metric last5
      finephrase results leaderboard --metric bits_per_byte
    """
    from finephrase_dagster.catalogue import read_lineage

    paths = paths_of(study)
    metric = str(Metric.read(metric))
    if name is not None and (board := _external_leaderboard(paths, name, metric)):
        return _print_board(board, as_json)
    lineage = read_lineage(paths)
    if name not in (None, lineage.study.name):
        raise OptionWrong(f"there is no study {name!r}; take it in with: finephrase results import --name {name}")
    if not lineage.study.mixtures:
        raise OptionWrong(
            f"study {lineage.paths.study} has no mixtures, and therefore no scores. Name another study with --study."
        )
    try:
        artifact = lineage.leaderboard()
        artifact.manifest()
    except ArtifactMissing as error:
        if paths.warehouse.exists() and print_unfinished(lineage, metric, as_json=as_json):
            return
        raise NoScores(
            f"the study {lineage.study.name} has no scores yet. Run: {materialize_command(lineage.paths.study)}"
        ) from error
    if metric != "macro":
        from finephrase_dagster.results.leaderboard import study_leaderboard
        from finephrase_dagster.results.warehouse import reading

        with reading(paths.warehouse) as connection:
            _print_board(study_leaderboard(lineage, connection, metric), as_json)
        if not as_json:
            print_gate_warnings(lineage)
    elif as_json:
        print_json([{**row, "unscored": {}} for row in json.loads((artifact.folder / "leaderboard.json").read_bytes())])
    else:
        print_leaderboard(lineage)


def _print_board(board: Leaderboard, as_json: bool) -> None:
    if as_json:
        print_json([{**row, "unscored": {}} for row in board.rows])
    else:
        print_rows(board.rows, board.early)


def _external_leaderboard(paths: Paths, name: str, metric: str) -> Leaderboard | None:
    """Return the comparison of a study's runs in the warehouse; None if it has none."""
    from finephrase_dagster.results.leaderboard import compose_leaderboard
    from finephrase_dagster.results.scored_runs import read_runs
    from finephrase_dagster.results.warehouse import reading

    if not paths.warehouse.exists():
        return None
    with reading(paths.warehouse) as connection:
        runs = read_runs(connection, [name])
    return compose_leaderboard(runs, metric) if runs else None


app.command()(compare)


@app.command("import")
def import_(
    scores: Annotated[Path, typer.Option(metavar="CSV", help="Scores by run and step (benchmark-results.csv).")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name for the imported study.")],
    generations: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Generation runs with proxies (rephrasing_metadata.json).")
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Throughput by model (throughput_sweep.csv).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import the results of a published study.

    They are compared like your own, and marked as external. Importing again under the same name replaces them.

    \b
    Examples:
      finephrase results import --scores benchmark-results.csv --name playbook
      finephrase results import --scores benchmark-results.csv --generations rephrasing_metadata.json --name playbook
    """
    from finephrase_dagster.results.external import TOLERANCE, import_study

    files = {"scores": scores, "generations": generations, "sweep": sweep}
    paths = paths_of(None)
    imported = import_study(paths.warehouse, name, {kind: path for kind, path in files.items() if path is not None})
    if as_json:
        print_json(asdict(imported))
        return
    typer.echo(
        f"{imported.runs} runs with {imported.points} scored steps, {imported.generations} generation runs and "
        f"{imported.settings} models of a sweep recorded as study {imported.name} in {paths.warehouse}"
    )
    if imported.incomplete:
        typer.echo(f"without a final score, so not ranked: {', '.join(imported.incomplete)}")
    if imported.missing:
        typer.echo(f"{imported.missing} task scores are 0 or empty: they count as missing, and so do their means")
    if imported.broken_proxies:
        typer.echo(f"proxy scores that contradict themselves, not counted: {', '.join(imported.broken_proxies)}")
    if imported.deviation > TOLERANCE:
        complain(
            f"warning: means in {scores} differ by up to {imported.deviation:.2g} from those of their tasks, which are "
            "used"
        )


@app.command()
def rebuild(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Write the warehouse again.

    It is made from files on disk, those of the study and of imported studies, so it can be deleted at any time. Nothing
    is computed again.

    \b
    Examples:
      finephrase results rebuild
      finephrase results rebuild --study studies/mine.yaml
    """
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.results.external import record_kept
    from finephrase_dagster.results.leaderboard import record_study
    from finephrase_dagster.results.warehouse import writing

    lineage = read_lineage(paths_of(study)).snapshot()
    with writing(lineage.paths.warehouse) as connection:
        added = record_study(lineage, connection)
        external = record_kept(lineage.paths.data, connection)
    if as_json:
        print_json(
            {
                "warehouse": str(lineage.paths.warehouse),
                "study": lineage.study.name,
                "recorded": added,
                "external": external,
            }
        )
    else:
        typer.echo(
            f"{lineage.paths.warehouse} has all artifacts of the study {lineage.study.name}; {added} were missing"
        )
        if external:
            typer.echo(f"imported studies recorded again: {', '.join(external)}")


@app.command()
def mlflow(study: StudyOption = None) -> None:
    """Record students and scores in MLflow again.

    Use it for a new MLflow server, which `MLFLOW_TRACKING_URI` names. The checkpoints and scores that exist are read,
    and nothing is computed again. A student that MLflow has already keeps its run.

    \b
    Examples:
      MLFLOW_TRACKING_URI=http://127.0.0.1:5000 finephrase results mlflow
    """
    from finephrase_dagster.catalogue import read_lineage

    require_clone("finephrase results mlflow")
    lineage = read_lineage(paths_of(study))
    home = dagster_home()
    from finephrase_dagster.definitions import record_in_mlflow
    from finephrase_dagster.orchestration.stores import open_instance, refuse_unusable

    refuse_unusable(lineage.paths, home)
    with open_instance(home) as instance:
        students = record_in_mlflow(lineage, instance, log=clock())
    typer.echo(f"MLflow has {students} students of the study {lineage.study.name}")


app.command()(figure)
app.command()(
    of_figure(
        "proxies",
        "proxies",
        "Print how well proxy scores predict benchmarks.\n\n"
        "A proxy scores the texts themselves, for example for their educational value, and trains no student.",
    )
)
app.command()(propose)
app.command()(
    of_figure(
        "signal",
        "task_signal",
        "Print how well benchmarks tell mixtures apart.\n\n"
        "A benchmark whose scores differ little more between mixtures than between seeds is marked as weak.",
    )
)
