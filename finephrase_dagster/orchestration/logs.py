"""Logs for machines: one JSON object per line if `FINEPHRASE_LOG_FORMAT` is `json`.

Each object has `time` (UTC), `level`, `message` and `study`, and where they apply `asset`, `partition` and `run_id`.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.paths import Paths

LOG_FORMAT = "FINEPHRASE_LOG_FORMAT"
ASSET_TAG = "finephrase/asset"
"""The tag of a job that holds its asset."""
PARTITION, FIRST, LAST = (
    f"dagster/{name}" for name in ("partition", "asset_partition_range_start", "asset_partition_range_end")
)


class LogFormatWrong(FinephraseError, exit_status=2):
    """`FINEPHRASE_LOG_FORMAT` names no format."""


def check_log_format() -> None:
    """Raise LogFormatWrong if `FINEPHRASE_LOG_FORMAT` is neither `json` nor empty."""
    value = os.environ.get(LOG_FORMAT, "")
    if value.strip() and not json_wanted():
        raise LogFormatWrong(f"{LOG_FORMAT} is {value!r}; write json, or unset it")


def json_wanted() -> bool:
    """Return whether log lines must be JSON."""
    return os.environ.get(LOG_FORMAT, "").strip().lower() == "json"


def json_line(message: str, *, level: str = "info", at: float | None = None, **known: str | None) -> str:
    """Return one log line; `at` is in seconds since the epoch, and fields that are None are left out."""
    fields = {
        "time": (datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)).isoformat(),
        "level": level,
        "message": message,
        "study": Paths.from_environment().study.stem,
        **{name: value for name, value in known.items() if value is not None},
    }
    return json.dumps(fields, ensure_ascii=False)


def write_json_lines() -> None:
    """Write log records and warnings of libraries as JSON lines on standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """Format log records as JSON lines, with the fields that Dagster adds to a record."""

    def format(self, record: logging.LogRecord) -> str:
        meta: dict[str, Any] = getattr(record, "dagster_meta", {})
        tags: dict[str, str] = meta.get("job_tags") or {}
        message = str(meta.get("orig_message") or record.getMessage())
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        return json_line(
            message,
            level=record.levelname.lower(),
            at=record.created,
            asset=tags.get(ASSET_TAG),
            partition=_partition(tags),
            run_id=meta.get("run_id"),
        )


def _partition(tags: dict[str, str]) -> str | None:
    if FIRST in tags:
        return f"{tags[FIRST]}...{tags[LAST]}"
    return tags.get(PARTITION)
