"""Checks that endpoints follow a grammar, with one tiny request each, before documents are sent to them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.completion import readable
from finephrase_dagster.rephrase.connection import API_KEY, CHAT_PATH, Server
from finephrase_dagster.rephrase.engine import EngineFailed

WORD = "zx-417-qv"  # what no model answers unless the grammar makes it
TIMEOUT_SECONDS = 60


class GuidanceUnsupported(FinephraseError, exit_status=2):
    """An endpoint refuses grammars or ignores them; the message gives its reason."""


def guided_endpoints(endpoints: Sequence[str], model: str, log: Callable[[str], None]) -> list[str]:
    """Return the URLs of the endpoints that follow a grammar; those that do not answer are left out.

    Raises:
        GuidanceUnsupported: an endpoint refuses grammars or ignores them.
        EngineFailed: no endpoint answers.
    """
    with ThreadPoolExecutor(len(endpoints)) as threads:
        answers = dict(zip(endpoints, threads.map(lambda url: _is_guided(url, model), endpoints), strict=True))
    for url, follows in answers.items():
        if not follows:
            log(f"{url} does not answer; it is left out of this run")
    if not any(answers.values()):
        raise EngineFailed(f"no endpoint answers ({', '.join(answers)}). Check that they run, then run it again.")
    return [url for url, follows in answers.items() if follows]


def _is_guided(url: str, model: str) -> bool:
    """Return whether a server answers, and as the grammar says."""
    server = Server(url, os.environ.get(API_KEY) or None)
    request = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 16,
        "structured_outputs": {"grammar": f'root ::= "{WORD}"'},
    }
    try:
        response = asyncio.run(server.fetch(CHAT_PATH, TIMEOUT_SECONDS, json.dumps(request).encode()))
    except (OSError, TimeoutError):
        return False
    remedy = "Use a server that has vLLM's structured outputs, or rephrase without guidance (--free, guided: false)."
    body = response.body.decode("utf-8", "replace")
    if response.status >= 500 and response.status != 501:
        return False
    if response.status != 200:
        raise GuidanceUnsupported(f"{server.url} refuses grammars: HTTP {response.status}, {readable(body)}. {remedy}")
    if WORD not in body:
        raise GuidanceUnsupported(f"{server.url} ignores grammars: it answers a request that has one freely. {remedy}")
    return True
