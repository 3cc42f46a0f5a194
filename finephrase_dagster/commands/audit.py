"""The `audit` command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finephrase_dagster.commands.options import JsonOption, OptionWrong, require_writable
from finephrase_dagster.commands.terminal import complain, print_json, print_table

if TYPE_CHECKING:
    from finephrase_dagster.audit.audit import AuditReport
    from finephrase_dagster.audit.overlap import PromptOverlap

COLUMNS = ("gate", "verdict", "value", "required", "failing")
FEW_ROWS, FEW_FAILING = 100, 3  # among fewer rows, so few that fail can be chance
LACKING = {
    "manifest": "the folder of a dataset that finephrase wrote",
    "check": "--check FORM",
    "finish_reason": "a column finish_reason",
    "source_text": "--source FILE, or a column source_text",
    "drop_rows": "the section cells of a study, with on_failure: drop_rows",
    "model": "a model: --gate {gate}.model=PATH_OR_HUB_NAME. It records {sentence}",
}
"""What to give the command so that a gate can run, by what the dataset lacks."""


def audit(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|FILE...",
            help="Folder of a dataset, or a folder that holds the datasets of several prompts; or Parquet and JSONL "
            "(plain, .gz, .zst) files with a column text, and optionally id, finish_reason and source_text.",
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
            help="Change a gate's threshold or another setting: form=0.9, form.blocking=false. May be repeated.",
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
      finephrase audit out --source web.jsonl.zst   (all prompts, and how much they overlap)
      finephrase audit rows.parquet --rows failing.parquet --gate form=0.9
    """
    from finephrase_dagster.audit.audit import Audit
    from finephrase_dagster.audit.dataset import datasets_in, recorded_check
    from finephrase_dagster.audit.failing import write_failing_rows
    from finephrase_dagster.audit.overlap import overlaps
    from finephrase_dagster.audit.page import audit_sections

    require_writable("--rows", rows, paths)
    require_writable("--html", html, paths)
    settings, inner = gate_settings(gate or []), datasets_in(paths[0]) if len(paths) == 1 else {}
    if inner and rows is not None:
        raise OptionWrong(f"--rows {rows}: {paths[0]} holds the datasets {', '.join(inner)}; audit one of them")
    targets: dict[str, Any] = dict(inner) or {", ".join(paths): paths}
    reports, sections = {}, []
    for name, target in targets.items():
        form = check or (recorded_check(target) if inner else None)
        with Audit(target, check=form, settings=settings, source=source or [], processes=processes) as finished:
            reports[name] = finished.report
            if rows is not None:
                complain(f"{rows}: {write_failing_rows(finished, rows):,} rows, one per failing row and gate")
                complain(_dropped(rows, finished.report))
            if html is not None:
                sections.append(audit_sections(finished, name))
    pairs = overlaps(inner)
    if html is not None:
        write_page(html, ", ".join(paths), sections, pairs)
    show_reports(reports, pairs, is_folder=bool(inner), as_json=as_json)
    if not all(report.passed for report in reports.values()):
        raise typer.Exit(1)


def _dropped(rows: Path, report: AuditReport) -> str:
    """Return what a cell's `on_failure: drop_rows` would leave out with these gates, given the file of failing rows."""
    from finephrase_dagster.audit.gates import gates
    from finephrase_dagster.train.admission import write_dropped

    dropping = [one.name for one in report.gates if one.blocking and one.failing and gates()[one.name].by_row]
    with TemporaryDirectory() as folder:
        count = write_dropped(rows, dropping, Path(folder, "dropped.parquet"))["rows"]
    which = f": those that fail {' or '.join(dropping)}" if dropping else ""
    return f"on_failure: drop_rows leaves out {count:,} of {report.rows:,} completions{which}"


def write_page(path: Path, title: str, sections: Sequence[str], pairs: Sequence[PromptOverlap]) -> None:
    """Write a page, completely or not at all."""
    from finephrase_dagster.artifacts.artifact import atomic_write
    from finephrase_dagster.audit.page import html_page, overlap_section

    page = html_page(title, [*([overlap_section(pairs)] if pairs else []), *sections])
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def show_reports(
    reports: Mapping[str, AuditReport], pairs: Sequence[PromptOverlap], *, is_folder: bool, as_json: bool
) -> None:
    """Print the report of one dataset, or those of the datasets of a folder with what they have in common."""
    if not is_folder:
        (report,) = reports.values()
        print_json(report.as_json()) if as_json else print_report(report)
    elif as_json:
        datasets = {name: report.as_json() for name, report in reports.items()}
        passed = all(report.passed for report in reports.values())
        print_json({"passed": passed, "datasets": datasets, "overlaps": [asdict(pair) for pair in pairs]})
    else:
        for name, report in reports.items():
            typer.echo(f"== {name}")
            print_report(report)
        print_overlaps(pairs)


def print_overlaps(pairs: Sequence[PromptOverlap]) -> None:
    """Print how far the datasets of several prompts say the same, and what to do about it."""
    if not pairs:
        return
    from finephrase_dagster.audit.overlap import MOST, REMEDY

    typer.echo("== prompts on the same documents")
    rows = [
        (
            *(pair.first, pair.second, "passed" if pair.passed else "warning"),
            *(f"{pair.near_duplicates:.1%}", f"{pair.mean_similarity:.3f}", f"{pair.documents:,}"),
        )
        for pair in pairs
    ]
    print_table(("prompt", "other", "verdict", "near-duplicates", "similarity", "documents"), rows, names=3)
    if any(not pair.passed for pair in pairs):
        typer.echo(f"More than {MOST:.0%} of the documents have nearly the same completion. What to do: {REMEDY}")


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
            if 0 < result.failing <= FEW_FAILING and report.rows < FEW_ROWS:
                typer.echo(
                    f"  {result.failing} of only {report.rows} rows: so small a sample decides little; audit more"
                )
    for name, lack in report.skipped.items():
        sentence = gates()[name].sentence.partition(":")[0]
        needs = " and ".join(
            LACKING[need].format(gate=name, sentence=sentence) for need in lack.removeprefix("needs ").split(" and ")
        )
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
