"""The `plan` command."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of, require_finite
from finephrase_dagster.commands.terminal import complain, print_json, print_table
from finephrase_dagster.study.paths import shown_path

if TYPE_CHECKING:
    from finephrase_dagster.plan.plan import Plan

MOST_STALE = 12  # reasons for staleness that are listed without --items
_VERSIONS = re.compile(r'(\w+): "[0-9a-f]{16}" -> "[0-9a-f]{16}"')


def plan(
    study: StudyOption = None,
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="Number of GPUs that work at the same time.")] = 1,
    gpu_hour_dollars: Annotated[
        float | None,
        typer.Option(
            min=0, max=1e6, metavar="USD", help="Price of one GPU-hour; default: 3, as in the published study."
        ),
    ] = None,
    goodput: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1,
            metavar="SHARE",
            help="Share of the GPUs' time that is spent working; the published run reached 0.44.",
        ),
    ] = 1.0,
    max_dollars: Annotated[
        float | None,
        typer.Option(min=0, metavar="USD", help="Exit with status 1 if the cost is higher, or cannot be computed."),
    ] = None,
    every_item: Annotated[
        bool, typer.Option("--items", help="List every partition with its state and folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a study would run, what exists already, and what it costs. Starts nothing.

    \b
    Examples:
      finephrase plan
      finephrase plan --study studies/production.yaml --gpus 100
      finephrase plan --study studies/mine.yaml --max-dollars 500 --json
    """
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.plan.plan import Terms
    from finephrase_dagster.plan.plan import plan as make_plan
    from finephrase_dagster.plan.published import Published

    price = Published.read().gpu_hour_dollars if gpu_hour_dollars is None else gpu_hour_dollars
    require_finite({"--gpu-hour-dollars": price, "--goodput": goodput, "--max-dollars": max_dollars})
    result = make_plan(read_lineage(paths_of(study)), Terms(gpus=gpus, gpu_hour_dollars=price, goodput=goodput))
    if as_json:
        print_json(result.as_json())
    else:
        _print_plan(result, every_item)
    if max_dollars is not None:
        _check_cost(result, max_dollars)


def _check_cost(plan: Plan, max_dollars: float) -> None:
    if plan.unknown:
        complain(f"error: the cost cannot be computed: {'; '.join(plan.unknown)}")
        raise typer.Exit(1)
    if plan.dollars > max_dollars:
        complain(
            f"error: the plan costs {plan.dollars:,.2f} dollars, more than --max-dollars {max_dollars:,.2f}. Raise the "
            "limit, or remove partitions from the study."
        )
        raise typer.Exit(1)


def _print_plan(plan: Plan, every_item: bool) -> None:
    from finephrase_dagster.plan.text import COLUMNS, stage_rows

    figures = plan.as_json()
    typer.echo(f"{figures['study']}: {figures['file']}, artifacts in {figures['data']}")
    print_table(COLUMNS, stage_rows(figures))
    if not figures["total"]["partitions"]:
        failed = figures["total"]["failed"]
        typer.echo(
            f"Nothing to do, but {failed} audits did not pass."
            if failed
            else "Nothing to do: everything exists and is current."
        )
    if stopped := figures["total"]["stopped"]:
        typer.echo(f"{stopped} partitions belong to students that were stopped early; --items lists them.")
    if figures["total"]["known"]["gpu_hours"]:
        typer.echo(
            f"{figures['gpus']} GPU{'s' * (figures['gpus'] > 1)} at {figures['gpu_hour_dollars']:g} dollars per hour, "
            f"working {100 * figures['goodput']:g} % of the time; the stages run one after another."
        )
    for name, stage in figures["stages"].items():
        if stage["basis"]:
            typer.echo(f"{name}: {'; '.join(stage['basis'])}")
    for line in item_lines(figures["items"], every_item):
        typer.echo(line)
    for line in plan.sampling:
        typer.echo(f"sampling: {line}")
    for sight in plan.sights:
        typer.echo(f"seeds: {sight}")
    for warning in plan.warnings:
        typer.echo(f"warning: {warning}")
    for unknown in plan.unknown:
        typer.echo(f"cost unknown: {unknown}")


def item_lines(items: Sequence[Mapping[str, Any]], every_item: bool) -> list[str]:
    """Return the lines on items: all of them with their folders, or those that are stale, by reason."""
    if every_item:
        places = [f" {shown_path(Path(item['folder']))}" if item["folder"] else "" for item in items]
        rows = zip(items, places, strict=True)
        return ["", "items:", *(f"  {item['name']} {item['state']}{place}{_reasons(item)}" for item, place in rows)]
    groups: dict[tuple[str, str], list[str]] = {}
    names = {item["name"] for item in items}
    for item in items:
        if item["state"] == "stale":
            groups.setdefault((item["stage"], _why(item["reasons"], names)), []).append(item["name"])
    lines = [
        f"  {some[0] if len(some) == 1 else f'{len(some)} of {stage}, such as {some[0]}'}: {why}"
        for (stage, why), some in groups.items()
    ]
    more = [f"  and {len(lines) - MOST_STALE} more reasons; --items lists all"] * (len(lines) > MOST_STALE)
    return ["", "stale:", *lines[:MOST_STALE], *more] if lines else []


def _reasons(item: Mapping[str, Any]) -> str:
    return f": {'; '.join(item['reasons'])}" if item["reasons"] else ""


def _why(reasons: Sequence[str], names: Collection[str]) -> str:
    """Return why an item is stale, in words that items with the same reason have in common."""
    own = [_VERSIONS.sub(r"\1: another version", one) for one in reasons if one.rpartition(" is ")[0] not in names]
    inputs = len(reasons) - len(own)
    return "; ".join([*own, *[f"inputs that are not current: {inputs}"] * (inputs > 0)])
