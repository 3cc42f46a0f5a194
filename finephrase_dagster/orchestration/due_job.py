"""The job that materializes what is stale or missing: `finephrase materialize`, started from the web UI."""

import os
import signal
import subprocess
import sys

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.processes import end
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase import guard
from finephrase_dagster.study.paths import REPOSITORY

JOB = "materialize_what_is_due"
GRACE_SECONDS = 60


class NotMaterializedAll(FinephraseError):
    """Something that is due could not be made; the log of the run says what."""


class Due(dg.Config):
    """What to materialize of what is stale or missing."""

    select: list[str] = Field(
        default=[],
        description="items (as `finephrase plan --items` prints them), assets or stages; * matches any characters. "
        "Default: everything that is stale or missing",
    )
    keep_going: bool = Field(default=True, description="after a failure, continue with what does not depend on it")


def build_due_job(lineage: Lineage) -> dg.JobDefinition:
    """Return the job; its runs start further runs, one after the other, on the machine of the job."""

    @dg.op(description="Runs `finephrase materialize`, whose lines are in the log of this run.")
    def materialize(context: dg.OpExecutionContext, config: Due) -> None:
        options = ["--study", str(lineage.paths.study), "--log-format", "text"]
        options += [] if config.keep_going else ["--stop-at-failure"]
        options += ["--select", *config.select] if config.select else []
        command = [sys.executable, "-P", "-m", "finephrase_dagster.commands.main", "materialize", *options]
        context.log.info(" ".join(command[4:]))
        environment = {"FINEPHRASE_DATA": str(lineage.paths.data), "PYTHONPATH": os.pathsep.join(sys.path)}
        process = guard.start(command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=subprocess.PIPE)
        last = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                last = line.decode("utf-8", "replace").rstrip()
                if not last.startswith(f"{guard.NAME} ended"):  # for this program, not for people
                    context.log.info(last)
        finally:
            end(process, first=signal.SIGINT, grace_seconds=GRACE_SECONDS)
        if last != f"{guard.NAME} ended with status 0":
            raise NotMaterializedAll("not everything could be made; the lines above say what failed, and why")

    @dg.job(
        name=JOB,
        description="Materializes what is stale or missing, stage by stage, like `finephrase materialize`. The "
        "configuration chooses a part of it.",
    )
    def due() -> None:
        materialize()

    return due
