"""The `results` commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.commands.figures import NameOption, NoScores, figure, of_figure
from finephrase_dagster.commands.leaderboard import print_leaderboard, print_rows, print_unfinished, read_json
from finephrase_dagster.commands.options import JsonOption, OptionWrong, StudyOption, dagster_home, paths_of
from finephrase_dagster.commands.propose import price, propose
from finephrase_dagster.commands.terminal import clock, complain, print_json, print_table, print_text
from finephrase_dagster.evaluate.metric import Metric
from finephrase_dagster.results.analysis import Question
from finephrase_dagster.study.paths import materialize_command, require_clone

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from finephrase_dagster.artifacts.lineage import Lineage
    from finephrase_dagster.results.leaderboard import Leaderboard
    from finephrase_dagster.results.verdict import Verdict
    from finephrase_dagster.study.paths import Paths


app = typer.Typer(help="Compare the scores of a study's students.")
MetricOption = Annotated[
    str,
    typer.Option(
        metavar="SCORE",
        help="A task, a category, macro, micro or held_out; with /bits_per_byte for bits per byte of the answers, and "
        "with /last5 for the mean over the last five checkpoints.",
    ),
]


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
        if not as_json and metric == "macro" and paths.warehouse.exists() and print_unfinished(lineage):
            return
        raise NoScores(
            f"the study {lineage.study.name} has no scores yet. Run: {materialize_command(lineage.paths.study)}"
        ) from error
    if metric != "macro":
        from finephrase_dagster.results.leaderboard import study_leaderboard
        from finephrase_dagster.results.warehouse import reading

        with reading(paths.warehouse) as connection:
            _print_board(study_leaderboard(lineage, connection, metric), as_json)
    elif as_json:
        print_json(read_json(artifact.folder / "leaderboard.json"))
    else:
        print_leaderboard(lineage)


def _print_board(board: Leaderboard, as_json: bool) -> None:
    if as_json:
        print_json(board.rows)
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


@app.command()
def compare(
    baseline: Annotated[str, typer.Option(metavar="MIXTURE", help="The mixture that the others are compared with.")],
    name: NameOption = None,
    student: Annotated[str | None, typer.Option(metavar="NAME", help="Compare this student's mixtures only.")] = None,
    metric: MetricOption = "macro",
    question: Annotated[
        Question,
        typer.Option(
            help="The comparisons to correct for, so that chance alone finds no differences: each mixture with the "
            "baseline (Dunnett), all pairs (Tukey), or exploration (5 % of the findings may be false)."
        ),
    ] = "baseline",
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a verdict on each mixture.

    A mixture beats the baseline, loses to it, ties with it, or is undecided.

    Mixtures that differ from the baseline in more than their data (tokens, mix-in, repetition, evaluation) are listed
    as not comparable. Undecided comparisons come with the seeds per mixture that would probably decide, and their cost.
    A/A pairs and negative controls are compared with the mixtures that they are made from.

    \b
    Examples:
      finephrase results compare --baseline readmes_raw
      finephrase results compare --baseline fw_edu_hq --name playbook --student 1.7b --json
      finephrase results compare --baseline readmes_raw --metric gsm8k/bits_per_byte
    """
    from finephrase_dagster.results.arms import arms
    from finephrase_dagster.results.checks import check_arms
    from finephrase_dagster.results.scored_runs import read_runs
    from finephrase_dagster.results.verdict import RULE
    from finephrase_dagster.results.verdict import compare as compare_runs
    from finephrase_dagster.results.warehouse import record_verdicts, writing

    paths, metric = paths_of(study), str(Metric.read(metric))
    with writing(paths.warehouse) as connection:
        lineage, name = _named_study(paths, name, connection)
        runs = [run for run in read_runs(connection, [name]) if student in (None, run.student)]
        verdicts = compare_runs(runs, baseline, metric=metric, student=student, question=question)
        rows = [{**verdict.as_json(), "cost_to_decide": _cost_to_decide(verdict, lineage)} for verdict in verdicts]
        checks = [check.as_json() for check in check_arms(arms(runs), metric)]
        record_verdicts(connection, name, [*rows, *checks])
    if as_json:
        answer = {"study": name, "baseline": baseline, "metric": metric, "rule": RULE, "comparisons": rows}
        print_json({**answer, "checks": checks})
    else:
        print_comparisons(rows, metric)
        for check in checks:
            print_text(check["text"], indent="  ")


def _named_study(paths: Paths, name: str | None, connection: DuckDBPyConnection) -> tuple[Lineage | None, str]:
    """Return a study of one's own with what exists of it recorded, or the name of an imported one."""
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.results.leaderboard import record_study

    recorded = dict(connection.execute("SELECT DISTINCT study, external FROM current").fetchall())
    if name is not None and recorded.get(name):
        return None, name
    lineage = read_lineage(paths).snapshot()
    if name not in (None, lineage.study.name):
        names = ", ".join(sorted({*recorded, lineage.study.name}))
        if name not in recorded:
            raise OptionWrong(f"there is no study {name!r}. Choose from {names}, or run: finephrase results import")
        return None, str(name)
    record_study(lineage, connection)
    return lineage, lineage.study.name


def _cost_to_decide(verdict: Verdict, lineage: Lineage | None) -> dict[str, float] | None:
    from finephrase_dagster.plan.seeds import seed_cost

    runs = verdict.baseline.first, verdict.arm.first
    cost = seed_cost(runs, lineage) if verdict.decision else None
    return cost.times(verdict.decision.seeds) if cost and verdict.decision else None


def print_comparisons(rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Print verdicts as a table, and below it what each undecided one needs."""
    columns = ["mixture", "student", "verdict", f"difference in {metric}", "95 % interval", "p", "noise", "seeds"]
    print_table(columns, map(_comparison_cells, rows), names=3)
    typer.echo(f"compared by: {Metric.read(metric).words}")
    for partial in dict.fromkeys(row["partial"] for row in rows if row["partial"]):
        print_text(partial)
    for source in dict.fromkeys(row["noise"]["source"] for row in rows):
        typer.echo(f"noise: {source}")
    for row in rows:
        if row["mismatches"]:
            typer.echo(f"{row['mixture']}: not comparable: {'; '.join(row['mismatches'])}")
        elif more := row["seeds_to_decide"]:
            cost = row["cost_to_decide"]
            cost_text = f" ({price(cost)})" if cost else ""
            typer.echo(f"{row['mixture']}: {more} more seeds per mixture would probably decide{cost_text}")


def _comparison_cells(row: Mapping[str, Any]) -> list[str]:
    interval, p_value, sd = row["interval"], row["p_value"], row["noise"]["sd"]
    digits = 6 if sd is not None and sd < 0.0002 else 4  # tiny students score near 0
    return [
        row["mixture"],
        row["student"],
        row["verdict"] if row["matched"] else "not comparable",
        "-" if row["difference"] is None else f"{row['difference']:+.{digits}f}",
        f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}" if interval else "-",
        "-" if p_value is None else f"{p_value:.3f}",
        "-" if sd is None else f"{sd:.{digits}f}",
        f"{row['seeds']['mixture']} and {row['seeds']['baseline']}",
    ]


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
        typer.echo(f"{added} artifacts of the study {lineage.study.name} recorded in {lineage.paths.warehouse}")
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
