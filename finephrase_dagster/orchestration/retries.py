"""Which failure is tried again, and by whom.

| what failed | who tries again |
|---|---|
| a request to an endpoint, an engine that died under a run | the run itself, while it runs (`rephrase/`) |
| infrastructure: an engine that does not start, an endpoint or a tracking server that cannot be reached, a broken \
connection, a store or a device that is busy | the step, in the same run, after a while: `retried` |
| a step's pod: taken from its node, killed | the executor of the cluster, in the same run (`pod_executor.py`) |
| the run's worker: killed, out of memory, its machine gone | Dagster's daemon, by a new run: `run_retries` in \
`dagster.yaml` |
| wrong input: a study, a recipe that does not match, an audit that did not pass; and a full disk | nobody: it \
fails the same way again, until a person changes something |

What is named here as infrastructure is tried again; everything else is not.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import dagster as dg
import requests
from sqlalchemy.exc import OperationalError
from urllib3.exceptions import HTTPError

from finephrase_dagster.errors import FinephraseError

INFRASTRUCTURE: tuple[type[BaseException], ...] = (
    ConnectionError,
    TimeoutError,
    requests.ConnectionError,
    requests.Timeout,
    HTTPError,  # of a Kubernetes API that is away for longer than its clients wait
    OperationalError,  # of SQLite or Postgres: locked, or away
    sqlite3.OperationalError,
)
"""Errors of libraries that another attempt may not meet again; ours say so themselves (`FinephraseError.retryable`)."""

NO_SPACE = (*map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)), "disk is full")
"""What errors say that tell of a full disk."""

RETRIES = 3
FIRST_WAIT_SECONDS = 15
ONCE_TAG = "finephrase/once"
"""Of a run that is not tried again, for a person waits for it and sees why it failed."""

Compute = TypeVar("Compute", bound=Callable[..., Any])


def infrastructure(error: BaseException) -> bool:
    """Whether it, or what it was caused by, is a fault of the infrastructure."""
    causes = list(_causes(error))
    return any(map(_is_retryable, causes)) and not any(map(_no_space, causes))


def _is_retryable(error: BaseException) -> bool:
    return error.retryable if isinstance(error, FinephraseError) else isinstance(error, INFRASTRUCTURE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _no_space(error: BaseException) -> bool:
    """Whether a disk is full; SQLite says so in words of its own."""
    return any(words in str(error) for words in NO_SPACE)


def wait_seconds(attempt: int) -> int:
    """Before an attempt, the first of which is 0: each time twice as long."""
    return FIRST_WAIT_SECONDS * 2**attempt


def retried(compute: Compute) -> Compute:
    """An asset's body that Dagster runs again after a fault of the infrastructure; all other errors end the step.

    It stands between `@dg.multi_asset` and the body. A retry policy would not do: it takes every error for one that
    passes, interrupts included.
    """
    if inspect.isgeneratorfunction(compute):

        @functools.wraps(compute)
        def body(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from compute(*args, **kwargs)
            except Exception as error:
                _try_again_after(error)
                raise

    else:

        @functools.wraps(compute)
        def body(*args: Any, **kwargs: Any) -> Any:
            try:
                return compute(*args, **kwargs)
            except Exception as error:
                _try_again_after(error)
                raise

    return body  # type: ignore[return-value]


def _try_again_after(error: Exception) -> None:
    """Raises RetryRequested if there is sense in it."""
    context = dg.AssetExecutionContext.get()
    attempt = context.retry_number
    if attempt >= RETRIES or ONCE_TAG in context.run.tags or not infrastructure(error):
        return
    wait = wait_seconds(attempt)
    context.log.warning(f"{error}\nThat may pass: attempt {attempt + 2} of {RETRIES + 1} begins in {wait} s.")
    raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error
