"""The `materialize` command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from finephrase_dagster.commands.options import StudyOption, dagster_home, paths_of
from finephrase_dagster.commands.results import print_leaderboard
from finephrase_dagster.commands.terminal import clock, complain
from finephrase_dagster.study.paths import require_clone

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage


def materialize(study: StudyOption = None) -> None:
    """Materialize everything of a study that is missing or stale, in this process.

    The stages run one after another: sources, generators, synthetic datasets and their audits, tokenized data,
    mixtures, training, evaluation. What exists already is reused. Run the same command again to resume after an
    interruption.

    \b
    Examples:
      finephrase materialize
      finephrase materialize --study studies/mine.yaml
    """
    from finephrase_dagster.catalogue import read_lineage

    require_clone("finephrase materialize")
    log = clock()
    paths = paths_of(study)
    lineage = read_lineage(paths)
    home = dagster_home()
    with _store_failures_explained():
        from finephrase_dagster.orchestration.stores import refuse_unusable

        refuse_unusable(paths, home)
        import dagster as dg

        from finephrase_dagster.definitions import defs
        from finephrase_dagster.orchestration.materialize import materialize_study
        from resources.rephraser import engines_kept

        with dg.DagsterInstance.from_config(str(home)) as instance:
            outcome = materialize_study(lineage, defs, instance, engines_kept=engines_kept, log=log)
    stopped = f", {len(outcome.stopped)} stopped early" if outcome.stopped else ""
    log(f"{len(outcome.made)} partitions materialized, {len(outcome.reused)} reused{stopped}")
    if not outcome.complete:
        for name, message in outcome.failed.items():
            complain(f"failed: {name}: {message}")
        if outcome.waiting:
            complain(f"{len(outcome.waiting)} partitions wait for something that is missing")
        raise typer.Exit(1)
    if lineage.study.mixtures:
        print_leaderboard(lineage)
        _print_where_to_look(lineage)


def _print_where_to_look(lineage: Lineage) -> None:
    typer.echo(
        f"\nScores, audits and manifests: {lineage.paths.warehouse} (DuckDB)\n"
        f"Datasets and checkpoints:     {lineage.paths.data}\n"
        "Lineage, checks and previews: make ui, then http://127.0.0.1:3000\n"
        "Loss curves and ablations:    make ui, then http://127.0.0.1:5000"
    )


@contextmanager
def _store_failures_explained() -> Iterator[None]:
    """Raise StoreUnusable, with a remedy, for a failure of Dagster's database.

    The library of databases is imported here, because other commands run without it.
    """
    from sqlalchemy.exc import OperationalError

    from finephrase_dagster.orchestration.stores import StoreUnusable, server_failure

    try:
        yield
    except StoreUnusable:
        raise
    except Exception as error:
        reason = server_failure(error)
        remedy = "Start the database server, then run the same command again: what is finished is kept."
        if reason is None and isinstance(error, OperationalError):
            reason, remedy = str(error.orig), "Make room in the folders DAGSTER_HOME and FINEPHRASE_DATA."
            if not any(words in reason for words in ("full", "I/O error", "readonly", "unable to open")):
                raise
        if reason is None:
            raise
        raise StoreUnusable(f"Dagster's database failed: {reason}. {remedy}") from error
