"""The `audit` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finephrase_dagster.commands.options import JsonOption, OptionWrong
from finephrase_dagster.commands.terminal import complain, print_json, print_table

if TYPE_CHECKING:
    from finephrase_dagster.audit.audit import AuditReport

COLUMNS = ("gate", "verdict", "value", "required", "failing")
LACKING = {
    "manifest": "the folder of a dataset that finephrase wrote",
    "check": "--check FORM",
    "finish_reason": "a column finish_reason",
    "source_text": "--source FILE, or a column source_text",
    "model": "a model: --gate NAME.model=MODEL",
}
"""What to give the command so that a gate can run, by what the dataset lacks."""


def audit(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|FILE...",
            help="Folder of a dataset; or Parquet and JSONL (plain, .gz, .zst) files with a column text, and if they "
            "have them id, finish_reason and source_text.",
        ),
    ],
    check: Annotated[
        str | None, typer.Option(metavar="FORM", help="The form that completions must have, such as faq or table.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Documents that the completions were made from: a file or folder with the columns id and text. May be "
            "repeated.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a Parquet file with id, gate and reason of each failing row."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with charts, and completions next to their sources."),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[.SETTING]=VALUE",
            help="Change a gate's threshold or another setting, as form=0.9 or form.blocking=false. May be repeated.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, metavar="N", help="Number of processes. Default: one per core.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the quality gates over a synthetic dataset. The exit status is 1 if a blocking gate failed.

    \b
    Examples:
      finephrase audit out/faq --check faq --source web.jsonl.zst
      finephrase audit rows.parquet --rows failing.parquet --gate form=0.9
    """
    from finephrase_dagster.artifacts.artifact import atomic_write
    from finephrase_dagster.audit.audit import Audit
    from finephrase_dagster.audit.failing import write_failing_rows
    from finephrase_dagster.audit.page import audit_page

    require_folder("--rows", rows, paths)
    require_folder("--html", html, paths)
    settings = gate_settings(gate or [])
    with Audit(paths, check=check, settings=settings, source=source or [], processes=processes) as finished:
        report = finished.report
        if rows is not None:
            count = write_failing_rows(finished, rows)
            complain(f"{rows}: {count:,} rows, one per failing row and gate")
        if html is not None:
            page = audit_page(finished, ", ".join(paths))
            with atomic_write(html) as temporary:
                temporary.write_text(page, encoding="utf-8")
    if as_json:
        print_json(report.as_json())
    else:
        print_report(report)
    if not report.passed:
        raise typer.Exit(1)


def require_folder(option: str, path: Path | None, inputs: list[str]) -> None:
    """Refuse a file that cannot be written, before anything is read.

    Raises:
        OptionWrong: its folder does not exist, it is a folder, or it is one of the inputs.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise OptionWrong(f"{option} {path}: no folder {path.parent}; create it")
    if path.is_dir():
        raise OptionWrong(f"{option} {path}: is a folder; name a file in it")
    if path.resolve() in {Path(name).resolve() for name in inputs}:
        raise OptionWrong(f"{option} {path}: is one of the inputs; name another file")


def gate_settings(options: list[str]) -> dict[str, dict[str, Any]]:
    """Return the settings that the options `--gate` name.

    Raises:
        OptionWrong: an option is not of the form NAME=VALUE or NAME.SETTING=VALUE.
    """
    settings: dict[str, dict[str, Any]] = {}
    for option in options:
        name, equals, value = option.partition("=")
        gate, _, setting = name.partition(".")
        if not equals or not gate:
            raise OptionWrong(f"--gate {option}: write NAME=VALUE, such as form=0.9, or NAME.SETTING=VALUE")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        settings.setdefault(gate.strip(), {})[setting.strip() or "threshold"] = parsed
    return settings


def print_report(report: AuditReport) -> None:
    """Print a table of the gates, and below it what to do about each that failed."""
    from finephrase_dagster.audit.gates import gates

    print_table(COLUMNS, [_cells(result) for result in report.gates], names=2)
    for result in report.gates:
        if not result.passed:
            typer.echo(f"{result.name}: {result.detail}")
            for row in result.examples:
                typer.echo(f"  {row.id}: {row.reason}")
            if remedy := gates()[result.name].remedy:
                typer.echo(f"  What to do: {remedy}")
    for name, lack in report.skipped.items():
        needs = " and ".join(LACKING[need] for need in lack.removeprefix("needs ").split(" and "))
        typer.echo(f"not run: {name} needs {needs}")
    if report.without_source:
        typer.echo(f"{report.without_source:,} of {report.rows:,} completions have no source")
    failed = [result.name for result in report.gates if result.blocking and not result.passed]
    verdict = f"does not pass: {', '.join(failed)}" if failed else "passes"
    typer.echo(f"{report.rows:,} completions: the dataset {verdict}")


def _cells(result: Any) -> tuple[str, ...]:
    verdict = "passed" if result.passed else "FAILED" if result.blocking else "warning"
    required = f"{result.bound} {result.threshold:g}"
    return result.name, verdict, f"{result.value:.4g}", required, f"{result.failing:,}"
