"""The `plan` command."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of, require_finite
from finephrase_dagster.commands.terminal import complain


def plan(
    study: StudyOption = None,
    gpus: Annotated[int, typer.Option(min=1, help="That work at the same time.")] = 1,
    gpu_hour_dollars: Annotated[
        float | None, typer.Option(min=0, max=1e6, help="Price of one for an hour; default: the published 3 dollars.")
    ] = None,
    goodput: Annotated[
        float, typer.Option(min=0.001, max=1, help="Part of a GPU's time at work; the published run reached 0.44.")
    ] = 1.0,
    max_dollars: Annotated[
        float | None, typer.Option(min=0, help="Exit with status 1 if what would run costs more.")
    ] = None,
    every_item: Annotated[bool, typer.Option("--items", help="List every partition with its state.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What a study would run, what exists already, and what it costs. Starts nothing."""
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.plan.plan import Terms
    from finephrase_dagster.plan.plan import plan as planned
    from finephrase_dagster.plan.published import Published
    from finephrase_dagster.plan.text import plan_text

    price = Published.read().gpu_hour_dollars if gpu_hour_dollars is None else gpu_hour_dollars
    require_finite({"--gpu-hour-dollars": price, "--goodput": goodput, "--max-dollars": max_dollars})
    found = planned(read_lineage(paths_of(study)), Terms(gpus=gpus, gpu_hour_dollars=price, goodput=goodput))
    typer.echo(json.dumps(found.as_json(), indent=2) if as_json else plan_text(found, every_item=every_item))
    if max_dollars is None:
        return
    if found.unknown:
        complain(f"error: it cannot be told what this costs: {'; '.join(found.unknown)}")
        raise typer.Exit(1)
    if found.dollars > max_dollars:
        complain(
            f"error: what would run costs {found.dollars:,.2f} dollars, more than {max_dollars:,.2f}; raise "
            "--max-dollars, or take partitions out of the study"
        )
        raise typer.Exit(1)
