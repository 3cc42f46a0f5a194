"""The `results` commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finephrase_dagster.commands.options import JsonOption, OptionWrong, StudyOption, paths_of
from finephrase_dagster.commands.terminal import print_json, print_table
from finephrase_dagster.study.student import MANY_EPOCHS

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage

app = typer.Typer(no_args_is_help=True, help="Compare the scores of a study's students.")

Row = Mapping[str, Any]


@app.command()
def leaderboard(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Print the leaderboard: the scores of all mixtures of a study, best first.

    The scores must exist already: `finephrase materialize` computes them.

    \b
    Examples:
      finephrase results leaderboard
      finephrase results leaderboard --study studies/mine.yaml --json
    """
    from finephrase_dagster.catalogue import read_lineage

    lineage = read_lineage(paths_of(study))
    if not lineage.study.mixtures:
        raise OptionWrong(
            f"study {lineage.paths.study} has no mixtures, and therefore no scores. Name another study with --study."
        )
    artifact = lineage.leaderboard()
    artifact.manifest()
    if as_json:
        print_json(_read(artifact.folder / "leaderboard.json"))
    else:
        print_leaderboard(lineage)


def print_leaderboard(lineage: Lineage) -> None:
    """Print the leaderboard of a study whose scores exist, and what may be concluded from it."""
    folder = lineage.leaderboard().folder
    rows = _read(folder / "leaderboard.json")
    categories = list(rows[0]["categories"]) if rows else []
    columns = ["mixture", "student", "macro", "± sd", "seeds", "epochs", "micro", *categories]
    print_table(columns, (_cells(row, categories) for row in rows), names=2)
    typer.echo(
        "macro: mean over six categories of the probability of the right answer's tokens; ± sd: its standard deviation "
        "over seeds; micro: mean over all benchmarks."
    )
    for line in (*_comparable(rows), *_noise(rows), *_repeated(rows), *_early(_read(folder / "early.json"))):
        typer.echo(line)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _cells(row: Row, categories: Iterable[str]) -> list[str]:
    return [
        _name(row),
        row["student"],
        _score(row["macro"]),
        _score(row["macro_sd"]),
        str(row["seeds"]),
        f"{row['epochs']:.2g}",
        _score(row["micro"]),
        *(_score(row["categories"][category]) for category in categories),
    ]


def _name(row: Row) -> str:
    return f"{row['mixture']} (decay of {row['decay_from']})" if row["decay_from"] else str(row["mixture"])


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _comparable(rows: Iterable[Row]) -> list[str]:
    """Return which mixtures differ in their synthetic part alone, and which of them lie within the noise."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        mix_in = tuple(row["mix_in"].items())
        groups.setdefault((row["student"], row["decay_from"], row["tokens"], mix_in), []).append(row)
    lines = []
    for (student, _, _, mix_in), group in groups.items():
        if len(group) > 1:
            original = ", ".join(f"{100 * share:g} % {name}" for name, share in mix_in) or "no original text"
            lines.append(f"  {student}, {original}: {', '.join(_verdict(row) for row in group)}")
    return ["Comparable, because only their synthetic part differs:", *lines] if lines else []


def _verdict(row: Row) -> str:
    if row["within_noise"] is None or not row["behind"]:
        return _name(row)
    return f"{_name(row)} ({'within noise' if row['within_noise'] else 'behind'})"


def _noise(rows: Iterable[Row]) -> list[str]:
    deviations = {row["student"]: row["noise"] for row in rows if row["noise"] is not None}
    return [f"Noise of {student} (standard deviation over seeds): {noise:.4f}" for student, noise in deviations.items()]


def _repeated(rows: Iterable[Row]) -> list[str]:
    names = [f"{_name(row)} {row['epochs']:.1f}" for row in rows if row["epochs"] > MANY_EPOCHS]
    return [f"Trained for more than {MANY_EPOCHS} epochs: {', '.join(names)}"] if names else []


def _early(steps: Iterable[Row]) -> list[str]:
    """Return how well the scores before the end of training predict the final ones."""
    lines = []
    for step in steps:
        correlation = "-" if step["rank_correlation"] is None else f"{step['rank_correlation']:.2f}"
        losses = ", ".join(f"best {100 * float(part):g} %: {loss:.4f}" for part, loss in step["regret"].items())
        lines.append(f"  step {step['step']}: {correlation}; {losses}")
    title = "Before the end: rank correlation with the final macro score; loss if only the best part had continued:"
    return [title, *lines] if lines else []
