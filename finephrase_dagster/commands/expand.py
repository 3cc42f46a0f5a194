"""The `expand` command."""

from __future__ import annotations

import typer

from finephrase_dagster.commands.options import StudyOption, paths_of


def expand(study: StudyOption = None) -> None:
    """Prints a study with every entry in full: registries, defaults and grids put in. It is a study file itself."""
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.plan.text import expanded_text

    typer.echo(expanded_text(read_lineage(paths_of(study)).study), nl=False)
