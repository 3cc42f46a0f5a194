"""The `trace` command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of
from finephrase_dagster.commands.terminal import print_json
from finephrase_dagster.study.paths import materialize_command

WhatArgument = Annotated[
    str,
    typer.Argument(metavar="MIXTURE|FILE#ID", help="A mixture of the study, or a row of a dataset's or corpus's file."),
]


def trace(what: WhatArgument, study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Trace a mixture's scores down to its documents, or a document up to the scores of the students that saw it.

    \b
    Examples:
      finephrase trace faq_and_raw
      finephrase trace 'data/studies/demo/synthetic/rephraser__package_readmes/faq#package_readmes/accelerate'
    """
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.results.trace import trace_document, trace_mixture

    lineage = read_lineage(paths_of(study))
    row = named_row(what)
    try:
        found = trace_mixture(lineage, what) if row is None else trace_document(lineage, *row)
    except ArtifactMissing as error:
        raise ArtifactMissing(f"{error}. Run: {materialize_command(lineage.paths.study)}") from error
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(_mixture_lines(found) if row is None else _document_lines(found)))


def named_row(what: str) -> tuple[Path, str] | None:
    """Return the file and the id of `FILE#ID`, either of which may have a '#'; None if there is none at all."""
    parts = what.split("#")
    rows = [(Path("#".join(parts[:count])), "#".join(parts[count:])) for count in range(1, len(parts))]
    return next((row for row in rows if row[0].exists()), rows[0] if rows else None)


def _mixture_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"mixture {found['mixture']} of the study {found['study']}: {found['tokens']:,} tokens, {found['folder']}"
    yield from map(_student_line, found["students"])
    yield from _partial_lines(found["students"])
    for dataset in found["datasets"]:
        yield (
            f"  {dataset['share']:.1%} {dataset['name']}: {dataset['tokens']:,} tokens, {dataset['epochs']:.2f} epochs,"
            f" {dataset['documents_drawn']:,} of {dataset['documents']:,} documents"
        )
        for origin in dataset["origins"]:
            yield from _origin_lines(origin)


def _origin_lines(origin: Mapping[str, Any]) -> Iterator[str]:
    if origin["prompt"]:
        audit = {True: "passed", False: "failed", None: "is missing"}[origin["audit_passed"]]
        failed = "; ".join(origin["failed_warnings"])
        warned = f"; gates that do not block failed: {failed}" * bool(failed)
        yield f"    prompt {origin['prompt']}, model {origin['model']}; its audit {audit}{warned}"
        yield f"    files in {origin['folder']}"
    yield f"    source {origin['source']}, files in {origin['source_folder']}"
    for document in origin["first_documents"]:
        yield f"    e.g. {document}"


def _document_lines(found: Mapping[str, Any]) -> Iterator[str]:
    belongs = ", ".join(found["items"]) or "no item of this study; see --study"
    yield f"{found['id']} in {found['file']}: {belongs}"
    if found["row"] is None:
        yield f"  was not completed: {found['rejected']['status']}: {found['rejected']['reason']}"
    else:
        yield from _row_lines(found["row"])
    if source := found["source"]:
        yield f"made from {source['file']}#{found['id']}"
        yield from _row_lines(source["row"])
    for each in found["rephrased"]:
        yield f"rephrased as {each['item']} ({each['finish_reason']}): {each['file']}"
    for each in found["students"]:
        shuffled = ", its words shuffled" if each["shuffled"] else ""
        yield f"seen in {each['windows']} windows of the mixture {each['mixture']}{shuffled} by"
        yield _student_line(each)
    yield from _partial_lines(found["students"])
    if not found["students"]:
        yield "no student saw it"


def _row_lines(row: Mapping[str, Any]) -> Iterator[str]:
    rest = {name: value for name, value in row.items() if name not in ("id", "text") and value is not None}
    yield "  " + ", ".join(f"{name} {value}" for name, value in rest.items())
    for line in row["text"].splitlines():
        yield f"  | {line}"


def _student_line(student: Mapping[str, Any]) -> str:
    if student["folder"] is None:
        return f"  {student['run']}: not trained yet"
    mark = " (partial)" * bool(student["partial"])
    scores = [f"{name}{mark} {student[name]:.4f}" for name in ("macro", "micro") if student[name] is not None]
    return f"  {student['run']}: {', '.join(scores) or 'not evaluated yet'}; {student['folder']}"


def _partial_lines(students: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from dict.fromkeys(student["partial"] for student in students if student["partial"])
