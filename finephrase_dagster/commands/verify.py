"""The `verify` command."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from finephrase_dagster.commands.options import JsonOption, OptionWrong
from finephrase_dagster.commands.terminal import print_json

DirArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="Folder or URL of a dataset, of any artifact, or of many of them.")
]


def verify(folder: DirArgument, as_json: JsonOption = False) -> None:
    """Compare all files of datasets, corpora, models, checkpoints and scores with their manifests, hash by hash.

    Reports files that are missing, torn, damaged, edited, or not in the manifest, each with the next action. The exit
    status is 1 if it finds any.

    \b
    Examples:
      finephrase verify out/faq
      finephrase verify data --json
    """
    from finephrase_dagster.artifacts.verification import verify_folder
    from finephrase_dagster.rephrase.location import folder_at

    artifacts = list(verify_folder(folder_at(folder)))
    if not artifacts:
        raise OptionWrong(f"{folder}: holds no complete dataset or other artifact. Check the path.")
    faulty = [artifact for artifact in artifacts if artifact["flaws"]]
    if as_json:
        print_json({"passed": not faulty, "artifacts": artifacts})
    else:
        typer.echo(verified_text(artifacts))
    if faulty:
        raise typer.Exit(1)


def verified_text(artifacts: list[dict[str, Any]]) -> str:
    """Return the report for a terminal: a line per flaw, and the number of files."""
    lines = [
        f"{artifact['folder']}: {flaw['file']} {flaw['problem']}. {flaw['remedy']}"
        for artifact in artifacts
        for flaw in artifact["flaws"]
    ]
    files, size = (sum(artifact[name] for artifact in artifacts) for name in ("files", "bytes"))
    return "\n".join([*lines, f"{len(artifacts)} artifacts, {files:,} files, {size:,} bytes: {len(lines)} flaws"])
