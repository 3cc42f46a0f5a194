"""The result of one request, and how a completion or an error is read from a response's body."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import orjson

MAX_TOKENS = 2**31
REASON_CHARACTERS = 500


class NotACompletion(ValueError):
    """A response's body holds no chat completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model wrote, unchanged; token counts are 0 if the server does not count."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row without a completion: the reason as text, and its kind (`http_400`, `unanswered`, ...)."""

    reason: str
    kind: str


@dataclass(frozen=True, slots=True)
class UnresolvedRow:
    """A row without a completion, while no request sent after its last attempt was completed either.

    So the row may be at fault, or the endpoints. `last_attempt` is on the clock of `time.monotonic()`.
    """

    reason: str
    kind: str
    last_attempt: float


RequestResult = Completion | FailedRow | UnresolvedRow


def read_completion(body: bytes) -> Completion:
    """Return the completion in a response's body; raises NotACompletion."""
    try:
        response = _loads(body)
        choice, usage = response["choices"][0], response.get("usage") or {}
        return Completion(
            text=_encodable(choice["message"]["content"] or ""),
            finish_reason=_encodable(str(choice.get("finish_reason") or "unknown")),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
        )
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        detail = f" ({error})" if isinstance(error, _WrongCount) else ""
        raise NotACompletion(f"HTTP 200, but not a chat completion{detail}: {_excerpt(body)}") from error


def read_error(body: bytes) -> str:
    """Return the message of a server's error, in any of the usual JSON shapes or as plain text."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        content = _loads(body)
        error = content.get("error", content) if isinstance(content, dict) else content
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        text = str(message or content)
    return readable(text) or "no message"


def readable(text: str, characters: int = REASON_CHARACTERS) -> str:
    """Return the beginning of a server's text without control characters, which could act on a terminal."""
    text = _encodable(text.strip()[:characters])
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _excerpt(body: bytes) -> str:
    try:
        return readable(body.decode("utf-8"), 200)
    except UnicodeDecodeError:
        return f"{len(body):,} bytes of binary data"


class _WrongCount(ValueError):
    """A number of tokens is impossible."""


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        import json  # reads lone surrogates, too

        return json.loads(body)


def _count(tokens: Any) -> int:
    count = int(tokens or 0)
    if not 0 <= count < MAX_TOKENS:
        raise _WrongCount(f"{readable(str(tokens), 50)} tokens")
    return count


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can express but UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
