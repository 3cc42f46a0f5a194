"""Object stores through fsspec, with bounds: a silent store is reported after seconds and given up after minutes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

NOTICE_SECONDS = 5.0  # of waiting, after which the store is named
S3_BOUNDS = {"connect_timeout": 10, "read_timeout": 10, "retries": {"max_attempts": 1}}
"""botocore's defaults with s3fs's five attempts wait 25 minutes for a store that accepts connections and is silent."""

_reported: set[str] = set()


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it; fsspec's own configuration comes first."""
    from fsspec import config
    from fsspec.core import url_to_fs

    config.conf.setdefault("s3", {}).setdefault("config_kwargs", S3_BOUNDS)
    store, path = url_to_fs(url)
    return store, path


@contextlib.contextmanager
def reported(url: str) -> Iterator[None]:
    """Log once that a store is waited for, if the block takes more than a few seconds."""
    timer = threading.Timer(NOTICE_SECONDS, _report, (url,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _report(url: str) -> None:
    if url not in _reported:
        _reported.add(url)
        logging.getLogger(__name__).warning(f"waiting for {url}: the store has not answered for {NOTICE_SECONDS:.0f} s")
