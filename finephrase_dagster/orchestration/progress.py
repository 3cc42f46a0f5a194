"""Progress on the terminal: the messages of the stages, without Dagster's own events."""

import logging
import sys

import dagster as dg

from finephrase_dagster.orchestration.logs import JsonLines, json_wanted


class _Messages(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = str(getattr(record, "dagster_meta", {}).get("orig_message", record.getMessage()))
        return "\n".join(f"  {line}" for line in message.splitlines())


def _is_from_a_stage(record: logging.LogRecord) -> bool:
    return getattr(record, "dagster_meta", {}).get("dagster_event") is None


@dg.logger
def progress(_: dg.InitLoggerContext) -> logging.Logger:
    """Return a logger for runs in a process that a person watches."""
    logger = logging.Logger("finephrase", level=logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_wanted() else _Messages())
    handler.addFilter(_is_from_a_stage)
    logger.addHandler(handler)
    return logger
