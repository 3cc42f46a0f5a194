"""Which failures are retried, and by what.

| failure | retried by |
|---|---|
| a request to an endpoint; an engine that dies during a run | the run itself (`rephrase/`) |
| infrastructure: an engine that does not start, an endpoint or tracking server that does not answer, a broken \
connection, a busy store or device | the step, in the same run, after a delay: `retried` |
| a step's pod: removed from its node, killed | the executor of the cluster, in the same run (`pod_executor.py`) |
| a run's worker process: killed, out of memory, its machine lost | Dagster's daemon, with a new run: `run_retries` \
in `dagster.yaml` |
| invalid input: a study, a recipe that does not match, a failed audit; also a full disk | nothing: a person must \
change something first |

Only infrastructure failures are retried.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import dagster as dg

from finephrase_dagster.errors import FinephraseError

NO_SPACE = (*map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)), "disk is full")
"""Texts in error messages that mean a full disk."""

RETRIES = 3
FIRST_WAIT_SECONDS = 15
ONCE_TAG = "finephrase/once"
"""Tag of a run whose steps are not retried, because a person waits for it and sees why it failed."""

Compute = TypeVar("Compute", bound=Callable[..., Any])


def is_infrastructure(error: BaseException) -> bool:
    """Return whether an error or one of its causes is an infrastructure failure."""
    causes = list(_causes(error))
    if any(words in str(cause) for cause in causes for words in NO_SPACE):
        return False
    return any(
        one.retryable if isinstance(one, FinephraseError) else isinstance(one, _infrastructure()) for one in causes
    )


@functools.cache
def _infrastructure() -> tuple[type[BaseException], ...]:
    """Return errors of libraries after which a retry may succeed; our own state it in `FinephraseError.retryable`.

    The libraries are imported here, because they would take a sixth of the time of loading a small study.
    """
    import requests
    from sqlalchemy.exc import OperationalError
    from urllib3.exceptions import HTTPError

    return (
        ConnectionError,
        TimeoutError,
        requests.ConnectionError,
        requests.Timeout,
        HTTPError,  # a Kubernetes API that does not answer for longer than its clients wait
        OperationalError,  # SQLite or PostgreSQL: locked, or not reachable
        sqlite3.OperationalError,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def wait_seconds(attempt: int) -> int:
    """Return the delay after an attempt, counted from 0; it doubles each time."""
    return FIRST_WAIT_SECONDS * 2**attempt


def retried(compute: Compute) -> Compute:
    """Decorate an asset's body so that Dagster retries the step after an infrastructure failure.

    All other errors fail the step. Apply it below `@dg.multi_asset`. Dagster's retry policy is no alternative: it
    retries after every error, including interrupts.
    """
    if inspect.isgeneratorfunction(compute):

        @functools.wraps(compute)
        def body(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _retrying():
                yield from compute(*args, **kwargs)

    else:

        @functools.wraps(compute)
        def body(*args: Any, **kwargs: Any) -> Any:
            with _retrying():
                return compute(*args, **kwargs)

    body.__signature__ = inspect.signature(compute)  # type: ignore[attr-defined] # Dagster asks for it 16 times
    return body  # type: ignore[return-value]


@contextlib.contextmanager
def _retrying() -> Iterator[None]:
    """Raise RetryRequested if the block fails for reasons of the infrastructure, and attempts are left."""
    try:
        yield
    except Exception as error:
        _request_retry(error)
        raise


def _request_retry(error: Exception) -> None:
    context = dg.AssetExecutionContext.get()
    attempt = context.retry_number
    if attempt >= RETRIES or ONCE_TAG in context.run.tags or not is_infrastructure(error):
        return
    wait = wait_seconds(attempt)
    context.log.warning(f"{error}\nThis may be temporary: attempt {attempt + 2} of {RETRIES + 1} starts in {wait} s.")
    raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error
