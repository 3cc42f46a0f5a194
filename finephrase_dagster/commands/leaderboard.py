"""What is printed of a leaderboard: its rows, and what may be concluded from them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finephrase_dagster.commands.terminal import print_json, print_table, print_text
from finephrase_dagster.evaluate.metric import Metric
from finephrase_dagster.results.analyses import analyses
from finephrase_dagster.results.analysis import EarlyStep, LeaderboardRow, row_name
from finephrase_dagster.results.figure import as_score
from finephrase_dagster.study.fields import shorten

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage
    from finephrase_dagster.results.evidence import GateWarning

MOST_NAMES = 5
"""Mixtures that wait for the same, as far as they are named."""


def print_leaderboard(lineage: Lineage) -> None:
    """Print the answer to a study's question, its leaderboard with references, and what may be concluded from it."""
    from finephrase_dagster.evaluate.scores import chance

    folder, lowest = lineage.leaderboard().folder, chance(lineage.vocabulary)
    rows, early = (read_json(folder / f"{name}.json") for name in ("leaderboard", "early"))
    print_rows(rows, early, question=lineage.study.description, chance=lowest)
    print_text(
        f"× chance: macro over {lowest:.4f}, the score on every benchmark of a student that finds all "
        f"{lineage.vocabulary:,} tokens equally probable; one that is certain of the right answers scores 1."
    )
    print_gate_warnings(lineage)


def print_unfinished(lineage: Lineage, metric: str = "macro", *, as_json: bool = False) -> bool:
    """Print the leaderboard of the students that are scored, and why the others are not; False if none is scored."""
    from finephrase_dagster.artifacts.graph import items, states
    from finephrase_dagster.plan.obstacle import unscored_runs
    from finephrase_dagster.results.leaderboard import record_study, study_leaderboard
    from finephrase_dagster.results.warehouse import writing

    lineage = lineage.snapshot()
    with writing(lineage.paths.warehouse) as connection:
        record_study(lineage, connection)
        board = study_leaderboard(lineage, connection, metric)
    graph = {item.name: item for item in items(lineage)}
    unscored = unscored_runs(lineage, graph, states(graph))
    if as_json:
        print_json(rows_with_unscored(board.rows, lineage, unscored))
        return bool(board.rows)
    if board.rows:
        print_rows(board.rows, board.early, question=lineage.study.description)
    print_gate_warnings(lineage)
    _print_lines("Students without a score:", unscored_lines(lineage, unscored))
    return bool(board.rows)


def print_gate_warnings(lineage: Lineage) -> None:
    """Print the datasets in mixtures that failed gates which do not block, if there is a warehouse."""
    from finephrase_dagster.results.evidence import gate_warnings
    from finephrase_dagster.results.warehouse import NoWarehouse, reading

    with contextlib.suppress(NoWarehouse), reading(lineage.paths.warehouse) as connection:
        print_warnings(gate_warnings(connection, lineage.study.name))


def print_warnings(warnings: Sequence[GateWarning]) -> None:
    """Print datasets that failed gates which do not block, and where to read more."""
    more = [f"Read more, for example: {warnings[0].page}"] if warnings else []
    _print_lines("Text that failed gates which do not block:", [*map(str, warnings), *more])


def unscored_lines(lineage: Lineage, unscored: Mapping[str, str]) -> list[str]:
    """Return what students without a score wait for, one line for all that wait for the same."""
    waiting: dict[str, list[str]] = {}
    for run, obstacle in unscored.items():
        waiting.setdefault(obstacle, []).append(lineage.study.student_runs[run].mixture)
    return [
        f"{shorten(list(dict.fromkeys(mixtures)), MOST_NAMES)} ({len(mixtures)} student{'s' * (len(mixtures) > 1)}): "
        f"{obstacle}"
        for obstacle, mixtures in waiting.items()
    ]


def rows_with_unscored(
    rows: Sequence[LeaderboardRow], lineage: Lineage, unscored: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the rows of a leaderboard with their `unscored` students, and a row for each mixture without any score.

    Args:
        unscored: the student runs without scores, each with what it waits for.
    """
    result = {(row["mixture"], row["student"], row["decay_from"]): {**row, "unscored": {}} for row in rows}
    blank = dict.fromkeys(rows[0] if rows else ("score", "macro", "micro"))
    for name, obstacle in unscored.items():
        run = lineage.study.student_runs[name]
        key = run.mixture, run.student, run.decay_from
        names = dict(zip(("mixture", "student", "decay_from"), key, strict=True))
        result.setdefault(key, {**blank, **names, "seeds": 0, "unscored": {}})["unscored"][name] = obstacle
    return list(result.values())


def print_rows(
    rows: Sequence[LeaderboardRow], early: Sequence[EarlyStep], *, question: str = "", chance: float | None = None
) -> None:
    """Print the answer, the rows of a leaderboard, and what else may be concluded from them.

    Args:
        question: what the study asks; the title of the analysis "answer" stands in for a description without "?".
        chance: the score of a student that has learned nothing, if it is known.
    """
    known = analyses()
    answer = known.pop("answer")
    _print_lines(question if question.endswith("?") else answer.title, answer.lines(rows, early))
    categories = list(rows[0]["categories"]) if rows else []
    metric = Metric.read(rows[0]["metric"] if rows else "macro")
    held_out = rows[0]["held_out_tasks"] if rows else []
    first = [] if metric.name == "macro" else [metric.name]
    references = ["× chance", "original"] if chance else ["original"]
    partial = next((row["partial"] for row in rows if row.get("partial")), None)
    macro, micro = (f"{name} (partial)" * bool(partial) or name for name in ("macro", "micro"))
    columns = ["mixture", "student", *first, macro, *references, "± sd", "seeds", "epochs", micro, *categories]
    columns += ["held out"] * bool(held_out)
    print_table(columns, (_cells(row, categories, first, chance) for row in rows), names=2)
    print_text(
        f"macro: mean over the categories; original: the score of the original text the mixture is compared with, in "
        "parentheses if more differs than the rephrased text; ± sd: standard deviation of macro over seeds; micro: "
        f"mean over the benchmarks that count. All scores: {metric.words}."
    )
    if partial:
        print_text(partial)
    if held_out:
        print_text(f"held out: mean over {', '.join(held_out)}, which count for no other mean.")
    for analysis in known.values():
        _print_lines(analysis.title, analysis.lines(rows, early))


def _print_lines(title: str, lines: Sequence[str]) -> None:
    if lines:
        print_text(title)
    for line in lines:
        print_text(f"  {line}", indent="    ")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _cells(row: LeaderboardRow, categories: Iterable[str], first: Iterable[str], chance: float | None) -> list[str]:
    macro = row["macro"]
    return [
        row_name(row),
        row["student"],
        *(_score(row["score"]) for _ in first),
        _score(macro),
        *([] if chance is None else ["-" if macro is None else f"{macro / chance:.1f}"]),
        _original(row),
        "-" if row["macro_sd"] is None else as_score(row["macro_sd"]),
        str(row["seeds"]),
        "-" if row["epochs"] is None else f"{row['epochs']:.2g}",
        _score(row["micro"]),
        *(_score(row["categories"].get(category)) for category in categories),
        *([_score(row["held_out"])] * bool(row["held_out_tasks"])),
    ]


def _original(row: LeaderboardRow) -> str:
    """Return the score of the original text that a row is compared with."""
    against = row["against_original"]
    if not against or against["difference"] is None:
        return "-"
    score = f"{row['score'] - against['difference']:.4f}"
    return score if against["matched"] else f"({score})"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
