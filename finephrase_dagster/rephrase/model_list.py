"""Reads a model's context from an endpoint's `/v1/models`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.completion import readable
from finephrase_dagster.rephrase.connection import API_KEY, MODELS_PATH, Server
from finephrase_dagster.rephrase.engine import EngineFailed

ATTEMPTS = 5
TIMEOUT_SECONDS = 10


class ContextUnknown(FinephraseError, exit_status=2):
    """The endpoints do not report one context for the model; the message says what to set."""


def read_context(servers: Sequence[Server], model: str) -> int:
    """Return the context that all endpoints report for a model. Endpoints that do not answer are left out.

    Raises:
        ContextUnknown: an endpoint does not have the model or does not report its context, or they differ.
        EngineFailed: no endpoint answers.
    """
    contexts: dict[str, int] = {}
    failure: EngineFailed | None = None
    with ThreadPoolExecutor(len(servers)) as threads:
        lookups = {server.url: threads.submit(_context_of, server, model) for server in servers}
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


def _context_of(server: Server, model: str) -> int:
    entries = [entry for entry in _models(server) if isinstance(entry, dict)]
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


def _models(server: Server) -> list[Any]:
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)
        try:
            response = asyncio.run(server.fetch(MODELS_PATH, TIMEOUT_SECONDS))
            if response.status == 200:
                return list(json.loads(response.body)["data"])
        except (OSError, TimeoutError, ValueError, LookupError, TypeError) as error:
            reason = readable(str(error) or type(error).__name__)
            continue
        reason = f"HTTP {response.status}"
        if response.status < 500:
            hint = f", or set {API_KEY}" if response.status in (401, 403) else ""
            raise ContextUnknown(
                f"{server.url}{MODELS_PATH} answers {reason}, so the context is unknown. Set it with --context{hint}."
            )
    raise EngineFailed(f"{server.url} does not answer ({reason}). Check that it runs, then run the command again.")
