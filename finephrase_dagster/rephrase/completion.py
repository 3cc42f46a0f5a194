"""What a server answers to a request for a chat completion, read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import orjson

MOST_TOKENS = 2**31


class Unreadable(ValueError):
    """An answer that is no chat completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model answered, as it came."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class FailedRow:
    """Why a row gets no completion: in words, and of what kind that is (`http_400`, `unanswered`, ...)."""

    reason: str
    kind: str


@dataclass(frozen=True, slots=True)
class UnresolvedRow:
    """Why a row got none so far, though no other row got one either that was sent since then."""

    reason: str
    kind: str
    since: float


RequestResult = Completion | FailedRow | UnresolvedRow


def read_completion(body: bytes) -> Completion:
    """The completion in a body; tokens that a server does not count are 0.

    Raises:
        Unreadable: there is none.
    """
    try:
        answer = _loads(body)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        return Completion(
            text=_encodable(choice["message"]["content"] or ""),
            finish_reason=_encodable(str(choice.get("finish_reason") or "unknown")),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
        )
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Unreadable(f"not a chat completion ({error!r}): {body[:200].decode('utf-8', 'replace')}") from error


def read_error(body: bytes) -> str:
    """The message of a server's error, whichever of the usual shapes it has."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        content = _loads(body)
        error = content.get("error", content) if isinstance(content, dict) else content
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        return _encodable(str(message or content))[:500]
    return text.strip()[:500] or "no message"


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        import json  # which also reads a lone surrogate

        return json.loads(body)


def _count(tokens: Any) -> int:
    count = int(tokens or 0)
    if not 0 <= count < MOST_TOKENS:
        raise ValueError(f"{tokens} tokens")
    return count


def _encodable(text: str) -> str:
    """A lone surrogate, which JSON can spell, has no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
