"""The `expand` command."""

from __future__ import annotations

from functools import partial

import typer
import yaml

from finephrase_dagster.artifacts.sampling import sampling_words
from finephrase_dagster.commands.options import StudyOption, paths_of
from finephrase_dagster.study.expand import expanded_fields
from finephrase_dagster.study.spec import Study


def expand(study: StudyOption = None) -> None:
    """Print a study file in full: every grid, default and registry entry is written out.

    The output is a study file itself, and describes the same study. Comments at its beginning have the sampling values
    that requests have, those included that the models set.

    \b
    Example:
      finephrase expand --study studies/finephrase.yaml > full.yaml
    """
    from finephrase_dagster.catalogue import read_lineage

    lineage = read_lineage(paths_of(study))
    for name, generator in lineage.study.generators.items():
        typer.echo(f"# sampling of {name}: {sampling_words(generator, partial(lineage.generator, name))}")
    typer.echo(expanded_text(lineage.study), nl=False)


def expanded_text(study: Study) -> str:
    """Return a study with every entry in full, as the text of a study file."""
    return yaml.safe_dump(expanded_fields(study), sort_keys=False, allow_unicode=True, width=120)
