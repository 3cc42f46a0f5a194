"""Reads a model's context from an endpoint's `/v1/models`."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.connection import Server
from finephrase_dagster.rephrase.engine import EngineFailed

ATTEMPTS = 5
TIMEOUT_SECONDS = 10


class ContextUnknown(FinephraseError, exit_status=2):
    """The endpoints do not report one context for the model; the message says what to set."""


def read_context(servers: Sequence[Server], model: str, key: str | None) -> int:
    """Return the context that all endpoints report for a model. Endpoints that do not answer are left out.

    Raises:
        ContextUnknown: an endpoint does not have the model or does not report its context, or they differ.
        EngineFailed: no endpoint answers.
    """
    contexts: dict[str, int] = {}
    failure: EngineFailed | None = None
    with ThreadPoolExecutor(len(servers)) as threads:
        lookups = {server.url: threads.submit(_context_of, server, model, key) for server in servers}
    for url, lookup in lookups.items():
        try:
            contexts[url] = lookup.result()
        except EngineFailed as error:
            failure = error
    if failure and not contexts:
        raise failure
    if len(set(contexts.values())) > 1:
        reported = ", ".join(f"{url} {context}" for url, context in contexts.items())
        raise ContextUnknown(f"the endpoints report different contexts for {model} ({reported}). Choose one: --context")
    return next(iter(contexts.values()))


def _context_of(server: Server, model: str, key: str | None) -> int:
    entries = [entry for entry in _models(server, key) if isinstance(entry, dict)]
    for entry in entries:
        if entry.get("id") == model:
            context = entry.get("max_model_len")
            if isinstance(context, int) and context > 0:
                return context
            raise ContextUnknown(f"{server.url} does not report the context of {model}. Set it with --context.")
    names = ", ".join(str(entry.get("id")) for entry in entries) or "none"
    raise ContextUnknown(
        f"{server.url} has no model {model!r}; it has: {names}. Correct --model, or set --context to use it anyway."
    )


def _models(server: Server, key: str | None) -> list[Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{server.url}/v1/models", headers=headers)
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return list(json.loads(response.read())["data"])
        except urllib.error.HTTPError as error:
            if error.code < 500:
                hint = ", or set FINEPHRASE_API_KEY" if error.code in (401, 403) else ""
                raise ContextUnknown(
                    f"{server.url}/v1/models answers HTTP {error.code}, so the context is unknown. Set it with "
                    f"--context{hint}."
                ) from error
            reason: object = f"HTTP {error.code}"
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = error
    raise EngineFailed(f"{server.url} does not answer ({reason}). Check that it runs, then run the command again.")
