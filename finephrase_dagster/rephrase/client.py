"""The client: chat completions from one endpoint, each tried until it is answered or given up.

An answer is a `Completion` or a `Refusal` (this row's own failure, with the server's reason). What says
that no row can be answered (a dead engine, an endpoint that gives nothing, a wrong model name) is raised
as EngineFailed. How many requests run at once is the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from finephrase_dagster.rephrase.engine import EngineFailed, EngineLike

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
SILENCE_SECONDS = 600.0  # a completion of thousands of tokens in a full batch takes minutes
EVERY_ROWS_STATUS = frozenset({401, 403, 404})  # a wrong key or model name: no request will fare better
TRY_AGAIN_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What the model answered, as it came."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Refusal:
    """Why a request got no completion."""

    reason: str


class _TryAgain(Exception):
    """One attempt failed in a way that another may not."""


class Client:
    """An async context manager over one endpoint."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine
        self._last_answer = float("-inf")
        self._probing = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_SECONDS),
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def complete(self, request: dict[str, Any]) -> Completion | Refusal:
        """Sends one request (`messages`, sampling, `max_tokens`, `seed`); the model's name is added.

        Raises:
            EngineFailed: the engine has ended, or answers neither this request nor any other.
        """
        reason, tried = "", 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))
                self._engine.check()
            tried = time.monotonic()
            try:
                return await self._send(request)
            except _TryAgain as error:
                reason = str(error)
        if not await self._answers(since=tried):
            raise EngineFailed(
                f"{self._engine.url} answers nothing, tried {ATTEMPTS} times ({reason}); "
                "see that the engine runs, then run again: what is finished is kept"
            )
        return Refusal(f"given up after {ATTEMPTS} attempts: {reason}")

    async def _answers(self, *, since: float) -> bool:
        """Whether the endpoint answers others: something since then, or else a smallest request now."""
        async with self._probing:
            if self._last_answer > since:
                return True
            with contextlib.suppress(_TryAgain):
                await self._send({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})
                return True
            self._engine.check()
            return False

    async def _send(self, request: dict[str, Any]) -> Completion | Refusal:
        """One attempt; raises _TryAgain if another may fare better."""
        assert self._session is not None, "use `async with`"
        body = {"model": self._engine.model, **request}
        try:
            async with self._session.post(f"{self._engine.url}/v1/chat/completions", json=body) as response:
                text = (await response.read()).decode("utf-8", "replace")
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _TryAgain(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        reason = f"HTTP {status}: {_said(text)}"
        if status in EVERY_ROWS_STATUS:
            raise EngineFailed(f"{self._engine.url} refuses model {self._engine.model!r}: {reason}")
        if status in TRY_AGAIN_STATUS or status >= 500:
            raise _TryAgain(reason)
        answer = _completion(text) if status == 200 else Refusal(reason)
        self._last_answer = time.monotonic()
        return answer


def _completion(text: str) -> Completion:
    """Reads an answer; raises _TryAgain for one that is not a chat completion."""
    try:
        answer = json.loads(text)
        choice, usage = answer["choices"][0], answer["usage"]
        return Completion(
            # A lone surrogate, which JSON can spell, has no UTF-8.
            text=(choice["message"]["content"] or "").encode("utf-8", "replace").decode("utf-8"),
            finish_reason=choice["finish_reason"] or "unknown",
            prompt_tokens=int(usage["prompt_tokens"]),
            completion_tokens=int(usage["completion_tokens"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise _TryAgain(f"not a chat completion ({error!r}): {text[:200]}") from error


def _said(text: str) -> str:
    """The message of a server's error, whichever of the usual shapes it has."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        body = json.loads(text)
        error = body.get("error", body) if isinstance(body, dict) else body
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        return str(message or body)[:500]
    return text.strip()[:500] or "no message"
