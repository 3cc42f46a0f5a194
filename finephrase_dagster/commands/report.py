"""The `report` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finephrase_dagster.commands.options import StudyOption, paths_of

NamesOption = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME", help="Name of a study in the warehouse. Default: that of --study."),
]
StudentOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Compare the mixtures of this student. Default: the one with most.")
]
BaselineOption = Annotated[
    str | None,
    typer.Option(metavar="MIXTURE", help="Compare with this mixture. Default: the original text of the best."),
]


def report(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the page and its figures.")],
    name: NamesOption = None,
    study: StudyOption = None,
    student: StudentOption = None,
    baseline: BaselineOption = None,
) -> None:
    """Write a page that answers a study's question, with figures; it needs no network.

    With several --name, each study gets a chapter of its own, for example your own study and an imported one.
    The folder also gets each figure as SVG, as data (CSV) and as a Vega-Lite specification.

    \b
    Examples:
      finephrase report --output report
      finephrase report --output report --name demo --name playbook
    """
    from finephrase_dagster.results.evidence import NoEvidence, read_evidence
    from finephrase_dagster.results.report import chapter, write_report
    from finephrase_dagster.results.warehouse import reading

    paths = paths_of(study)
    names = list(dict.fromkeys(name or [study_name(paths.study)]))
    if len(names) > 1 and (student or baseline):
        raise NoEvidence("--student and --baseline belong to one study; name one, or leave them out")
    with reading(paths.warehouse) as connection:
        chapters = [chapter(read_evidence(connection, one, student=student, baseline=baseline)) for one in names]
    page = write_report(output, chapters)
    for one in chapters:
        typer.echo(one.conclusion.answer)
    typer.echo(f"{page} ({page.stat().st_size / 1e6:.1f} MB) and {sum(len(one.figures) for one in chapters)} figures")


def study_name(path: Path) -> str:
    """Return the name of the study that a study file describes."""
    from finephrase_dagster.catalogue import catalogue
    from finephrase_dagster.study.file import read_study

    return read_study(path, catalogue()).name
