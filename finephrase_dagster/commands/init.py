"""The `init` command: a commented study of one's own, with a folder of prompts."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer
import yaml

from finephrase_dagster.commands.options import OptionWrong
from finephrase_dagster.commands.schema import study_schema
from finephrase_dagster.corpora.inputs import WARC, input_files
from finephrase_dagster.corpora.rows import read_rows
from finephrase_dagster.study.file import STUDIES
from finephrase_dagster.study.paths import shown_path

TEMPLATE = STUDIES / "template"
DOCUMENTS = 32  # of one's own, for a first look
TEXT_COLUMNS = ("text", "content", "body", "document", "raw_content")
WARC_ID = "WARC-Record-ID"
ID_COLUMNS = ("id", "doc_id", "_id", "uuid")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the study; it is created.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Parquet, JSONL or WARC files, folders or glob patterns with the documents; may be repeated. Default: "
            "the packaged corpus of README files.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a commented study that runs on a laptop: a study file, a prompt, and the schema for editors.

    \b
    Examples:
      finephrase init my_study
      finephrase init my_study --input 'texts/*.parquet'
      finephrase plan --study my_study/study.yaml
    """
    from finephrase_dagster.catalogue import catalogue

    folder = Path(os.path.normpath(folder.absolute()))
    study = folder / "study.yaml"
    values = {
        "name": re.sub("[^a-z0-9]+", "_", folder.name.lower()).strip("_")[:64].strip("_") or "my_study",
        "file": shlex.quote(shown_path(study)),
        "source": _source(inputs or []),
    }
    files = {
        study: Template((TEMPLATE / "study.yaml").read_text(encoding="utf-8")).substitute(values),
        folder / "study.schema.json": json.dumps(study_schema(catalogue()), indent=1) + "\n",
    }
    for path in sorted((TEMPLATE / "prompts").iterdir()):
        files[folder / "prompts" / path.name] = path.read_text(encoding="utf-8")
    if taken := [path for path in files if path.exists()]:
        raise OptionWrong(f"{taken[0]} exists already, and is kept. Name another folder, or move the file away.")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    typer.echo(f"Wrote {', '.join(shown_path(path) for path in files)}.")
    (source,) = yaml.safe_load(values["source"]).values()
    if inputs and source.get("id_column") != WARC_ID:
        identity = repr(source["id_column"]) if "id_column" in source else "a hash of the text"
        typer.echo(f"Text: the column {source.get('text_column', 'text')!r}; id: {identity}. {study} can name others.")
    typer.echo(f"Next: finephrase preview --study {values['file']} --limit 1")
    typer.echo(f"Then: finephrase plan --study {values['file']}")


def _source(inputs: list[str]) -> str:
    """Return the lines of the study file that describe its documents."""
    if not inputs:
        fields: dict[str, Any] = {"kind": "embedded", "corpus": "package_readmes"}
        note = "README files of Python packages. Your own: {kind: files, paths: [/texts/*.jsonl], text_column: text}"
    else:
        patterns = [one if "://" in one else os.path.normpath(Path(one).expanduser().absolute()) for one in inputs]
        fields = {"kind": "files", "paths": patterns, **_columns(input_files(patterns)[0].url)}
        note = "`text_column` and `id_column` name columns; without an id, it is a hash of the text"
    fields["limit"] = DOCUMENTS
    lines = yaml.safe_dump({"my_text": fields}, sort_keys=False, allow_unicode=True, width=1000).splitlines()
    text = "\n".join(f"  {line}" for line in lines)
    return f"  # {note}\n{text}  # remove this line to use all documents\n"


def _columns(url: str) -> Mapping[str, str]:
    """Return the columns of text and id of a file, where they are not the default ones.

    Raises:
        OptionWrong: no column has texts.
        CorpusError: the file cannot be read.
    """
    if url.endswith(WARC):
        return {"id_column": WARC_ID}
    first = next((row.values for row in read_rows(url) if row.values), {})
    texts = [name for name, value in first.items() if isinstance(value, str)]
    if not texts:
        raise OptionWrong(f"{url}: its first row has no column of texts, only {', '.join(first) or 'nothing'}.")
    text = next((name for name in TEXT_COLUMNS if name in texts), max(texts, key=lambda name: len(str(first[name]))))
    found = next((name for name in ID_COLUMNS if isinstance(first.get(name), str | int)), None)
    columns = {"text_column": text} if text != "text" else {}
    return {**columns, **({"id_column": found} if found and found != text else {})}
