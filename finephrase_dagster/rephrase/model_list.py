"""Asks endpoints about a model: its context (`/v1/models`), and whether they count tokens (`/tokenize`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.completion import NotACompletion, read_count, readable
from finephrase_dagster.rephrase.connection import API_KEY, MODELS_PATH, TOKENIZE_PATH, Server
from finephrase_dagster.rephrase.engine import EngineFailed

PAUSES = (0, 1, 2, 3, 4)
TIMEOUT_SECONDS = 10
MOST_SECONDS = 30  # of all attempts


class ContextUnknown(FinephraseError, exit_status=2):
    """The endpoints do not report one context for the model; the message says what to set."""


def read_context(servers: Sequence[Server], model: str, log: Callable[[str], None] = lambda line: None) -> int:
    """Return the context that all endpoints report for a model. Endpoints that do not answer are left out.

    `log` receives a line per attempt without an answer.

    Raises:
        ContextUnknown: an endpoint does not have the model or does not report its context, or they differ.
        EngineFailed: no endpoint answers.
    """
    contexts: dict[str, int] = {}
    failure: EngineFailed | None = None
    with ThreadPoolExecutor(len(servers)) as threads:
        lookups = {server.url: threads.submit(_context_of, server, model, log) for server in servers}
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


def counts_tokens(server: Server, model: str) -> bool:
    """Return whether an endpoint counts the tokens of messages, as vLLM does."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "one"}]}).encode()
    with ThreadPoolExecutor(1) as thread, contextlib.suppress(OSError, TimeoutError, NotACompletion):
        response = thread.submit(lambda: asyncio.run(server.fetch(TOKENIZE_PATH, TIMEOUT_SECONDS, body))).result()
        return response.status == 200 and read_count(response.body) > 0
    return False


def _context_of(server: Server, model: str, log: Callable[[str], None]) -> int:
    entries = [entry for entry in _models(server, log) if isinstance(entry, dict)]
    for entry in entries:
        if entry.get("id") == model:
            context = entry.get("max_model_len")
            if isinstance(context, int) and context > 0:
                return context
            raise ContextUnknown(f"{server.url} does not report the context of {model}. Set it with --context.")
    names = readable(", ".join(str(entry.get("id")) for entry in entries)) or "none"
    raise ContextUnknown(
        f"{server.url} has no model {model!r}; it has: {names}. Correct --model, or set --context to use it anyway."
    )


def _models(server: Server, log: Callable[[str], None]) -> list[Any]:
    deadline = time.monotonic() + MOST_SECONDS
    for pause in PAUSES:
        time.sleep(pause)
        if time.monotonic() > deadline:
            break
        try:
            response = asyncio.run(server.fetch(MODELS_PATH, TIMEOUT_SECONDS))
            if response.status == 200:
                return list(json.loads(response.body)["data"])
            if redirect := response.redirect(server.url, MODELS_PATH):
                raise ContextUnknown(redirect)
            reason = f"HTTP {response.status}"
            if response.status < 500 and response.status != 429:
                hint = f", or set {API_KEY}" if response.status in (401, 403) else ""
                raise ContextUnknown(
                    f"{server.url}{MODELS_PATH} answers {reason}, so the context is unknown. Set it with "
                    f"--context{hint}."
                )
        except TimeoutError:
            reason = f"no answer within {TIMEOUT_SECONDS} s"
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            reason = readable(str(error) or type(error).__name__)
        log(f"waiting for {server.url}{MODELS_PATH}, which tells the context of the model: {reason}")
    raise EngineFailed(
        f"{server.url}{MODELS_PATH} does not answer ({reason}). Check that the server runs, then run the command again."
    )
