"""The `materialize` command."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from finephrase_dagster.commands.options import StudyOption, dagster_home, paths_of
from finephrase_dagster.commands.results import print_leaderboard
from finephrase_dagster.commands.terminal import clock, complain, where_to_look
from finephrase_dagster.study.paths import require_clone


def materialize(study: StudyOption = None) -> None:
    """Makes everything of a study that is missing or stale, stage by stage, in this process."""
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

        for category in (dg.BetaWarning, dg.PreviewWarning):
            warnings.simplefilter("ignore", category)  # of Dagster's features that the version pinned here has

        from finephrase_dagster.definitions import defs
        from finephrase_dagster.orchestration.materialize import materialize_study
        from resources.rephraser import engines_kept

        with dg.DagsterInstance.from_config(str(home)) as instance:
            outcome = materialize_study(lineage, defs, instance, engines_kept=engines_kept, log=log)
    stopped = f", {len(outcome.stopped)} stopped early" if outcome.stopped else ""
    log(f"{len(outcome.made)} partitions made, {len(outcome.reused)} reused{stopped}")
    if not outcome.complete:
        for name, message in outcome.failed.items():
            complain(f"failed: {name}: {message}")
        if outcome.waiting:
            complain(f"not made, as something they need is missing: {len(outcome.waiting)} partitions")
        raise typer.Exit(1)
    if lineage.study.mixtures:
        print_leaderboard(lineage)
        typer.echo(where_to_look(lineage))


@contextmanager
def _store_failures_explained() -> Iterator[None]:
    """Turn a failure of Dagster's store into an error with a remedy."""
    from sqlalchemy.exc import OperationalError

    from finephrase_dagster.orchestration.stores import StoreUnusable, server_failure

    try:
        yield
    except StoreUnusable:
        raise
    except Exception as error:
        reason = server_failure(error)
        remedy = "see that the server runs, then run again: what is finished is kept"
        if reason is None and isinstance(error, OperationalError):
            reason, remedy = str(error.orig), "make room in DAGSTER_HOME and FINEPHRASE_DATA"
            if not any(words in reason for words in ("full", "I/O error", "readonly", "unable to open")):
                raise
        if reason is None:
            raise
        raise StoreUnusable(f"the instance's store: {reason}; {remedy}") from error
