"""The `results figure` and `results proxies` commands: the data of the report's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from finephrase_dagster.commands.options import JsonOption, OptionWrong, StudyOption, paths_of
from finephrase_dagster.commands.terminal import print_json, print_table
from finephrase_dagster.errors import FinephraseError

NameOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name of a study in the warehouse. Default: that of --study."),
]


class NoScores(FinephraseError):
    """The study's students have not been evaluated yet."""


def figure(
    figure: Annotated[
        str | None, typer.Argument(metavar="FIGURE", help="Name of a figure; default: list them.")
    ] = None,
    name: NameOption = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the data of a figure of the report.

    Below the data it prints what they show.

    \b
    Examples:
      finephrase results figure
      finephrase results figure task_signal --name playbook
    """
    from finephrase_dagster.results.figures import figures

    if figure is None:
        listed = {one: known.question for one, known in figures().items()}
        if as_json:
            print_json(listed)
        else:
            typer.echo("\n".join(f"{one:18} {question}" for one, question in listed.items()))
        return
    if figure not in figures():
        raise OptionWrong(f"there is no figure {figure!r}. Choose from {', '.join(figures())}")
    _print_figure(figure, name, study, as_json)


def of_figure(command: str, figure: str, summary: str) -> Callable[..., None]:
    """Return a command that prints the data of one figure."""

    def print_data(name: NameOption = None, study: StudyOption = None, as_json: JsonOption = False) -> None:
        _print_figure(figure, name, study, as_json)

    print_data.__name__ = command
    print_data.__doc__ = f"{summary}\n\n\b\nExamples:\n  finephrase results {command} --name playbook"
    return print_data


def _print_figure(figure: str, name: str | None, study: Path | None, as_json: bool) -> None:
    from finephrase_dagster.commands.report import study_name
    from finephrase_dagster.results.evidence import read_evidence
    from finephrase_dagster.results.figure import as_word
    from finephrase_dagster.results.figures import figures
    from finephrase_dagster.results.warehouse import reading

    paths, one = paths_of(study), figures()[figure]
    with reading(paths.warehouse) as connection:
        evidence = read_evidence(connection, name or study_name(paths.study))
    rows = one.rows(evidence)
    if as_json:
        print_json(
            {"figure": figure, "study": evidence.study, "caption": (rows and one.caption(rows)) or None, "rows": rows}
        )
        return
    if not rows:
        raise NoScores(f"the study {evidence.study} has too little data for the figure {figure}: {one.question}")
    print_table(one.columns.values(), ([as_word(row.get(field)) for field in one.columns] for row in rows))
    typer.echo(one.caption(rows))
