"""The `results` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finephrase_dagster.commands.options import JsonOption, OptionWrong, StudyOption, paths_of
from finephrase_dagster.commands.terminal import early_text, leaderboard_text

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage

app = typer.Typer(no_args_is_help=True, help="Scores: the comparison of all students.")


@app.command()
def leaderboard(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Prints the comparison of a study's mixtures."""
    from finephrase_dagster.catalogue import read_lineage

    lineage = read_lineage(paths_of(study))
    if not lineage.study.mixtures:
        raise OptionWrong(f"study {lineage.paths.study}: has no mixtures, and thus no scores; name another study")
    artifact = lineage.leaderboard()
    artifact.manifest()
    if as_json:
        typer.echo(json.dumps(_read(artifact.folder / "leaderboard.json"), indent=2))
    else:
        print_leaderboard(lineage)


def print_leaderboard(lineage: Lineage) -> None:
    """Print the leaderboard of a study whose scores are complete."""
    folder = lineage.leaderboard().folder
    typer.echo(leaderboard_text(_read(folder / "leaderboard.json")) + early_text(_read(folder / "early.json")))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
