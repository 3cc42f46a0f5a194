"""The `results compare` command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finephrase_dagster.artifacts.artifact import labelled_manifest
from finephrase_dagster.artifacts.key import SCORES, ItemKey
from finephrase_dagster.commands.figures import NameOption, NoScores
from finephrase_dagster.commands.leaderboard import print_warnings
from finephrase_dagster.commands.options import JsonOption, OptionWrong, StudyOption, paths_of
from finephrase_dagster.commands.propose import price
from finephrase_dagster.commands.terminal import print_json, print_table, print_text
from finephrase_dagster.evaluate.metric import Metric
from finephrase_dagster.results.analysis import Question, verdict_words
from finephrase_dagster.results.figure import as_score
from finephrase_dagster.study.fields import no_such_name
from finephrase_dagster.study.paths import materialize_command

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from finephrase_dagster.artifacts.lineage import Lineage
    from finephrase_dagster.results.verdict import Verdict
    from finephrase_dagster.study.paths import Paths

_Two = tuple[str, str]
MOST = 5
"""Mixtures without a counterpart that are named at the terminal."""
MetricOption = Annotated[
    str,
    typer.Option(
        metavar="SCORE",
        help="A task, a category, macro, micro or held_out; with /bits_per_byte for bits per byte of the answers, and "
        "with /last5 for the mean over the last five checkpoints.",
    ),
]
QuestionOption = Annotated[
    Question,
    typer.Option(
        help="The comparisons to correct for, so that chance alone finds no differences: each mixture with the "
        "baseline (Dunnett), all pairs (Tukey), or exploration (5 % of the findings may be false)."
    ),
]
GeneratorsOption = Annotated[
    _Two | None,
    typer.Option(
        metavar="A B",
        help="Compare the mixtures with text of generator B with those that have text of generator A instead, made "
        "with the same prompts from the same sources.",
    ),
]
StudiesOption = Annotated[
    _Two | None,
    typer.Option(
        metavar="A B",
        help="Compare the mixtures of study B with those of the same names in study A: studies in one data folder, "
        "your own or imported.",
    ),
]


def compare(
    baseline: Annotated[
        str | None, typer.Option(metavar="MIXTURE", help="Compare all other mixtures with this one.")
    ] = None,
    generators: GeneratorsOption = None,
    studies: StudiesOption = None,
    name: NameOption = None,
    student: Annotated[str | None, typer.Option(metavar="NAME", help="Compare this student's mixtures only.")] = None,
    metric: MetricOption = "macro",
    question: QuestionOption = "baseline",
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a verdict on each mixture, or on each pair of mixtures from two generators or two studies.

    A mixture beats the baseline, loses to it, ties with it, or is undecided.

    Mixtures that differ from the baseline in more than their data (tokens, mix-in, repetition, evaluation) are listed
    as not comparable. Undecided comparisons come with the seeds per mixture that would probably decide, and their cost.
    A/A pairs and negative controls are compared with the mixtures that they are made from.

    \b
    Examples:
      finephrase results compare --baseline readmes_raw
      finephrase results compare --baseline fw_edu_hq --name playbook --student 1.7b --json
      finephrase results compare --baseline readmes_raw --metric gsm8k/bits_per_byte
      finephrase results compare --generators small_writer large_writer
      finephrase results compare --studies playbook mine
    """
    from finephrase_dagster.results.arms import arms
    from finephrase_dagster.results.checks import check_arms
    from finephrase_dagster.results.evidence import gate_warnings
    from finephrase_dagster.results.pairs import Pairs, generator_pairs, study_pairs
    from finephrase_dagster.results.scored_runs import read_runs
    from finephrase_dagster.results.verdict import RULE, check_metric, compare_arms
    from finephrase_dagster.results.verdict import compare as compare_runs
    from finephrase_dagster.results.warehouse import record_verdicts, writing

    _check_one_kind(baseline, generators, studies, name)
    paths, metric, pairs = paths_of(study), str(Metric.read(metric)), Pairs()
    with writing(paths.warehouse) as connection:
        named = [_named_study(paths, one, connection) for one in studies or (name,)]
        name = named[-1][1]
        lineage = next((own for own, _ in named if own is not None), None)
        runs = [run for run in read_runs(connection, [one for _, one in named]) if student in (None, run.student)]
        if lineage is not None and baseline is not None and baseline not in lineage.study.mixtures:
            raise OptionWrong(f"--baseline: {no_such_name(baseline, lineage.study.mixtures)}")
        if lineage is not None and not runs and student is None:
            raise NoScores(f"the study {name} has no scores yet. Run: {materialize_command(lineage.paths.study)}")
        every = arms(runs)
        if baseline:
            verdicts = compare_runs(runs, baseline, metric=metric, student=student, question=question)
        else:
            if studies:
                pairs = study_pairs(every, studies)
            elif generators:
                pairs = generator_pairs(every, connection, name, generators)
            check_metric(metric, runs)
            verdicts = compare_arms(pairs.pairs, every, metric=metric, question=question)
        rows = [verdict.as_json() | _cost_to_decide(verdict, lineage, connection) for verdict in verdicts]
        checks = [] if studies else [check.as_json() for check in check_arms(every, metric)]
        record_verdicts(connection, name, [*rows, *checks])
        warnings = [warning for _, one in named for warning in gate_warnings(connection, one)]
    uncompared = _uncompared(lineage, {run.mixture for run in runs}) if lineage and student is None else {}
    without = [f"{one}: {mixture}" if studies else mixture for one, mixture in pairs.without]
    sides = {"studies": studies, "generators": generators, "without_counterpart": without} if not baseline else {}
    asked = {"study": None if studies else name, "baseline": baseline, **sides, "metric": metric, "rule": RULE}
    found = {
        "comparisons": rows,
        "checks": checks,
        "gate_warnings": [*map(asdict, warnings)],
        "not_compared": uncompared,
    }
    if as_json:
        return print_json({**asked, **found})
    print_comparisons(rows, metric, against=baseline is None)
    if compared := generators or studies:
        _print_sides(*compared, rows, without)
    _print_remarks(lineage, rows, uncompared, [check["text"] for check in checks])
    print_warnings(warnings)


def _uncompared(lineage: Lineage, scored: Collection[str]) -> dict[str, str]:
    """Return the mixtures of a study that have students and no scores by the present recipe, with the reason."""
    runs, labels = lineage.study.student_runs, lineage.labels
    old = {runs[name].mixture for name in runs if labelled_manifest(labels / ItemKey(kind=SCORES, run=name).name)}
    reasons = {True: "its scores are out of date", False: "has no scores"}
    return {run.mixture: reasons[run.mixture in old] for run in runs.values() if run.mixture not in scored}


def _print_remarks(
    lineage: Lineage | None, rows: Sequence[Mapping[str, Any]], uncompared: Mapping[str, str], checks: Sequence[str]
) -> None:
    """Print the study file's line with the seeds that would decide, what scores missing mixtures, and checks."""
    if lineage:
        _print_next_steps(lineage, rows, uncompared)
    for check in checks:
        print_text(f"  {check}", indent="    ")


def _print_next_steps(lineage: Lineage, rows: Sequence[Mapping[str, Any]], uncompared: Mapping[str, str]) -> None:
    more = max((row["seeds_to_decide"] or 0 for row in rows), default=0)
    if 0 < more <= 20 and not any(grid.seeds for grid in lineage.study.runs or ()):
        pairs = [(seeds.data, seeds.model) for seeds in lineage.study.seeds]
        first = 1 + max(map(max, pairs), default=-1)
        pairs += [(number, number) for number in range(first, first + more)]
        line = ", ".join(f"{{data: {data}, model: {model}}}" for data, model in pairs)
        print_text(f"for {more} more seeds, write in the study file: seeds: [{line}]", indent="  ")
    for mixture, reason in uncompared.items():
        print_text(f"not compared: {mixture} ({reason}): run {materialize_command(lineage.paths.study)}", indent="  ")


def _print_sides(first: str, second: str, rows: Sequence[Mapping[str, Any]], without: Sequence[str]) -> None:
    """Print how often each verdict was drawn, and which mixtures have no counterpart."""
    words = Counter(map(verdict_words, rows))
    print_text(f"{second} against {first}: {', '.join(f'{word} {count}' for word, count in words.most_common())}")
    if without:
        rest = f" and {len(without) - MOST} more; see --json" * (len(without) > MOST)
        print_text(f"without a counterpart: {', '.join(without[:MOST])}{rest}")


def _check_one_kind(baseline: str | None, generators: _Two | None, studies: _Two | None, name: str | None) -> None:
    if [baseline, generators, studies].count(None) != 2:
        raise OptionWrong("choose what to compare: --baseline MIXTURE, --generators A B or --studies A B, one of them")
    if studies and name is not None:
        raise OptionWrong("--studies names both studies; leave out --name")
    for sides in (generators, studies):
        if sides and sides[0] == sides[1]:
            raise OptionWrong(f"{sides[0]} cannot be compared with itself; name two")


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


def _cost_to_decide(verdict: Verdict, lineage: Lineage | None, connection: DuckDBPyConnection) -> dict[str, Any]:
    from finephrase_dagster.plan.seeds import seed_cost

    cost = verdict.decision and seed_cost((verdict.baseline.first, verdict.arm.first), lineage, connection)
    return {"cost_to_decide": cost.times(verdict.decision.seeds) if cost and verdict.decision else None}


def print_comparisons(rows: Sequence[Mapping[str, Any]], metric: str, *, against: bool = False) -> None:
    """Print verdicts as a table, and below it what each undecided one needs.

    Args:
        against: also print the baseline of each row.
    """
    from finephrase_dagster.results.decision import MOST_SEEDS

    columns = ["mixture", "student", "verdict", f"difference in {metric}", "95 % interval", "p", "noise", "seeds"]
    cells = ([*_comparison_cells(row), *[row["baseline"]] * against] for row in rows)
    print_table([*columns, *["baseline"] * against], cells, names=3)
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
        elif row["verdict"] == "undecided" and row["interval"]:
            typer.echo(f"{row['mixture']}: {MOST_SEEDS} more seeds per mixture would not decide")


def _comparison_cells(row: Mapping[str, Any]) -> list[str]:
    interval, p_value, sd = row["interval"], row["p_value"], row["noise"]["sd"]
    digits = 6 if sd is not None and sd < 0.0002 else 4  # tiny students score near 0
    return [
        row["mixture"],
        row["student"],
        verdict_words(row),
        "-" if row["difference"] is None else f"{row['difference']:+.{digits}f}",
        f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}" if interval else "-",
        "-" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
        "-" if sd is None else as_score(sd),
        f"{row['seeds']['mixture']} and {row['seeds']['baseline']}",
    ]
