"""The `release` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of
from finephrase_dagster.commands.terminal import clock, print_json, print_table

PAGE = "samples.html"


def release(
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the release, new or written before."),
    ],
    study: StudyOption = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help=f"Also write {PAGE} with N samples per configuration."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Also upload it to this dataset repository on the hub; needs $HF_TOKEN."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a study's datasets as one dataset, with a card, Croissant metadata and the lineage of each file.

    The study's section `release` lists the datasets and names them. All must be current, and must have passed
    their audits or have a reason in `despite_audits`. Run the same command again to resume, or to verify the files.

    \b
    Examples:
      finephrase release --study studies/mine.yaml --output released --sample 20
      HF_TOKEN=... finephrase release --study studies/mine.yaml --output released --push me/my-dataset
    """
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.release.publish import publish
    from finephrase_dagster.release.push import check_push, push_release
    from finephrase_dagster.release.samples import samples_page

    log, lineage = clock(), read_lineage(paths_of(study))
    if push:
        check_push(push)
    manifest = publish(lineage, output, log)
    if sample:
        (output / PAGE).write_text(samples_page(lineage, sample), encoding="utf-8")
        log(f"wrote {output / PAGE}")
    commits = push_release(output, manifest, push, log) if push else None
    if as_json:
        facts = {name: manifest[name] for name in ("fingerprint", "version", "configurations", "files")}
        print_json({"folder": str(output), **facts, "repository": push, "commits": commits})
        return
    rows = [
        (name, *(f"{one[count]:,}" for count in ("rows", "completion_tokens")), one["content"][:16])
        for name, one in manifest["configurations"].items()
    ]
    print_table(("configuration", "rows", "completion tokens", "content"), rows)
    size = sum(file["bytes"] for file in manifest["files"])
    typer.echo(f"{output}: {len(manifest['files'])} files, {size:,} bytes; the rows are those of the datasets")
