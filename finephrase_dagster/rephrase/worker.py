"""The worker of a pod that has an engine and no Dagster: `python -m finephrase_dagster.rephrase.worker`.

It receives a job through Dagster Pipes, executes it on the shared volume with an engine of its own, and reports
progress and results. If it is started again with the same job, it resumes.
"""

from __future__ import annotations

import signal
import sys

from dagster_pipes import PipesContext, open_dagster_pipes

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.pods.failure import TEMPORARY_FAILURE
from finephrase_dagster.rephrase.job import RephraseJob, execute
from finephrase_dagster.rephrase.metrics import serve_metrics_from_environment

JOB = "job"
"""Key of the Pipes extras that holds the job as JSON."""

DONE = "done"
"""Key of the message at the end: the counts of each dataset, by prompt."""

REPORTED = ("rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens")


def main() -> None:
    """Execute one job. Exit with status 1 if it fails, with `TEMPORARY_FAILURE` if another attempt may succeed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the engine ends, and journals are closed
    try:
        with open_dagster_pipes() as pipes:
            work(pipes)
    except (FinephraseError, FileNotFoundError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(TEMPORARY_FAILURE if getattr(error, "retryable", False) else 1)


def work(pipes: PipesContext) -> None:
    """Execute the job of a Pipes session."""
    job = RephraseJob.model_validate(pipes.get_extra(JOB))
    with serve_metrics_from_environment(job.model, log=pipes.log.info) as watch:
        manifests = execute(job, log=pipes.log.info, watch=watch)
    counts = {prompt: {name: manifest[name] for name in REPORTED} for prompt, manifest in manifests.items()}
    pipes.report_custom_message({DONE: counts})


if __name__ == "__main__":
    main()
