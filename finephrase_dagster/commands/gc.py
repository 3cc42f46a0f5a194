"""The `gc` command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finephrase_dagster.commands.options import JsonOption, OptionWrong
from finephrase_dagster.commands.terminal import print_json
from finephrase_dagster.study.paths import Paths, study_path

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.garbage import Unneeded
    from finephrase_dagster.artifacts.lineage import Lineage


def gc(
    study: Annotated[
        list[Path] | None,
        typer.Option(
            "--study",
            metavar="FILE",
            help="A further study file, outside studies/, whose artifacts are kept. May be repeated.",
        ),
    ] = None,
    keep_days: Annotated[float, typer.Option(min=0, metavar="N", help="Keep what was written in the last N days.")] = 7,
    forget: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A study given up: its artifacts may be deleted. May be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted; delete nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete artifacts that no study needs.

    Studies are the files in studies/, $FINEPHRASE_STUDY, and the files given with --study. A study needs the artifacts
    of its current recipes, and of an item that is not current the latest one. What is being written is kept.

    \b
    Examples:
      finephrase gc --dry-run
      finephrase gc --study my_study/study.yaml --keep-days 30
    """
    from finephrase_dagster.artifacts.garbage import delete, sweep, unneeded
    from finephrase_dagster.plan.text import bytes_text

    paths = Paths.from_environment()
    found = [each for each in unneeded(paths.data, _studies(paths, study or [])) if each.days >= keep_days]
    foreign = {name for each in found for name in each.studies} - set(forget or [])
    kept = [each for each in found if foreign & set(each.studies)]
    chosen = [each for each in found if each not in kept]
    if foreign and not dry_run:
        raise OptionWrong(
            f"{len(kept)} of the artifacts, {bytes_text(sum(each.size_bytes for each in kept))}, belong to "
            f"{', '.join(sorted(foreign))}, whose study file was not read. Name the file with --study, or, if the "
            "study is not needed any more, add --forget NAME."
        )
    if not dry_run:
        sweep(paths.data)
        chosen = [each for each, is_gone in delete(chosen) if is_gone]
        sweep(paths.data)
    freed = sum(each.size_bytes for each in chosen)
    if as_json:
        print_json(
            {
                "deleted": not dry_run,
                "bytes": freed,
                "artifacts": [_as_json(each) for each in chosen],
                "kept": [_as_json(each) for each in kept],
            }
        )
        return
    for each in chosen:
        typer.echo(f"{each.folder}: {bytes_text(each.size_bytes)}, {each.days:.0f} days old")
    for each in kept:
        typer.echo(f"{each.folder}: kept, it belongs to {', '.join(each.studies)} (see --study and --forget)")
    done = f"would be deleted, {bytes_text(freed)}" if dry_run else f"deleted, {bytes_text(freed)} freed"
    typer.echo(f"{len(chosen)} artifacts {done}")


def _studies(paths: Paths, named: list[Path]) -> list[Lineage]:
    """Return the lineages of all study files: in `studies/`, of the environment, and those that are named."""
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.study.file import shipped_studies

    files = shipped_studies()
    files += [study_path(file) for file in named]
    files.append(paths.study)
    unique = {file.resolve(): file for file in files}
    return [read_lineage(replace(paths, study=file)) for file in unique.values()]


def _as_json(artifact: Unneeded) -> dict[str, object]:
    return {
        "folder": str(artifact.folder),
        "bytes": artifact.size_bytes,
        "days": round(artifact.days, 2),
        "studies": list(artifact.studies),
    }
