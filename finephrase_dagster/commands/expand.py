"""The `expand` command."""

from __future__ import annotations

import typer

from finephrase_dagster.commands.options import StudyOption, paths_of


def expand(study: StudyOption = None) -> None:
    """Print a study file in full: every grid, default and registry entry is written out.

    The output is a study file itself, and describes the same study.

    \b
    Example:
      finephrase expand --study studies/finephrase.yaml > full.yaml
    """
    import yaml

    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.study.expand import written

    fields = written(read_lineage(paths_of(study)).study)
    typer.echo(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=120), nl=False)
