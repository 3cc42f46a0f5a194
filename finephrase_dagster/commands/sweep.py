"""The `sweep` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finephrase_dagster.commands.extras import require_extra
from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of, require_finite
from finephrase_dagster.commands.rephrase import progress
from finephrase_dagster.commands.terminal import clock, print_json, print_table


def sweep(
    generator: Annotated[str, typer.Option(metavar="NAME", help="The generator of the study whose engine is swept.")],
    study: StudyOption = None,
    file: Annotated[
        Path | None,
        typer.Option("--sweep", metavar="FILE", help="Sweep file; default: studies/sweep.yaml.", show_default=False),
    ] = None,
    gpu_hour_dollars: Annotated[
        float | None,
        typer.Option(min=0, max=1e6, metavar="USD", help="Price of one GPU-hour; default: as in `finephrase plan`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest settings of a generator's engine, on this machine and with the study's own work.

    Each measurement starts an engine, warms it up and measures its steady state. A setting is chosen only if it is
    faster by more than the noise. The generator's next runs and plans use it. Run the same command again to resume,
    or to see the result.

    \b
    Examples:
      finephrase sweep --generator rephraser
      finephrase sweep --generator rephraser --study studies/mine.yaml --sweep mine_sweep.yaml --json
    """
    require_extra("engine", "finephrase sweep")
    require_finite({"--gpu-hour-dollars": gpu_hour_dollars})
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.orchestration import devices
    from finephrase_dagster.plan.published import Published
    from finephrase_dagster.throughput.summary import COLUMNS, conclusions, table_rows
    from finephrase_dagster.throughput.sweep import sweep as run_sweep
    from finephrase_dagster.throughput.sweep_file import SWEEP_FILE, read_sweep

    log, spec = clock(), read_sweep(file or SWEEP_FILE)
    lineage = read_lineage(paths_of(study))
    with progress(log) as show:
        artifact = run_sweep(
            lineage,
            generator,
            spec,
            devices=devices.machine_devices(),
            leases=devices,
            gpu_hour_dollars=Published.read().gpu_hour_dollars if gpu_hour_dollars is None else gpu_hour_dollars,
            log=log,
            show=show,
        )
    manifest = artifact.manifest()
    if as_json:
        facts = ("fingerprint", "best", "speedup", "requests", "not_applicable", "tiers", "cost")
        print_json({"generator": generator, "folder": str(artifact.folder), **{name: manifest[name] for name in facts}})
        return
    for tier in manifest["tiers"]:
        print_table(COLUMNS, table_rows(tier))
    for line in conclusions(manifest):
        typer.echo(line)
