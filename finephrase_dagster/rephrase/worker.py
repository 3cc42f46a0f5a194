"""The worker of a pod that has an engine and no Dagster: `python -m finephrase_dagster.rephrase.worker`.

It receives an order through Dagster Pipes, carries it out on the shared volume with an engine of its own, and tells
how far it is and what came of it. Started again on the same order, it goes on where it was.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from dagster_pipes import PipesContext, open_dagster_pipes

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.pods.failure import TEMPORARY_FAILURE
from finephrase_dagster.rephrase.metrics import served_from_environment
from finephrase_dagster.rephrase.order import Order

ORDER = "order"
"""Of the extras: the order as JSON."""

DONE = "done"
"""Of the message at the end: what became of each dataset, by prompt."""

TOLD = ("rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens")


def main() -> None:
    """Carries out one order; exit status 1 if it cannot be, `TEMPORARY_FAILURE` if it may yet be."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the engine ends, and the journals are closed
    try:
        with open_dagster_pipes() as pipes:
            work(pipes)
    except (FinephraseError, FileNotFoundError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(TEMPORARY_FAILURE if getattr(error, "retryable", False) else 1)


def work(pipes: PipesContext) -> None:
    """Carries out the order of a Pipes session."""
    order = Order.model_validate(pipes.get_extra(ORDER))
    engine = order.engine()

    def started() -> list[Any]:
        pipes.log.info(f"starting an engine for {order.name}")
        return [engine.start()]

    with served_from_environment(order.name, log=pipes.log.info) as watch:
        try:
            made = order.carry_out(started, log=pipes.log.info, watch=watch)
        finally:
            engine.stop()
    told = {prompt: {name: manifest[name] for name in TOLD} for prompt, manifest in made.items()}
    pipes.report_custom_message({DONE: told})


if __name__ == "__main__":
    main()
