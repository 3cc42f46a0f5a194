"""The result of one request, and how a completion or an error is read from a response's body."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

MAX_TOKENS = 2**31
REASON_CHARACTERS = 500
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class FinishReason(NamedTuple):
    """What becomes of a row, and why."""

    outcome: Literal["completed", "failed", "retried"]
    meaning: str
    name: str = ""  # in the dataset, where servers have several names for it


_STOP = FinishReason("completed", "the model finished its text", "stop")
_LENGTH = FinishReason("completed", "the text was cut at max_tokens", "length")
_FILTERED = FinishReason("failed", "the server filtered the completion")
_TOOL = FinishReason("failed", "the model called a tool instead of writing text; start the server without tools")
_ABORTED = FinishReason("retried", "the server aborted the request")
FINISH_REASONS: Mapping[str, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn"), _STOP),
    **dict.fromkeys(("length", "max_tokens"), _LENGTH),
    "unknown": FinishReason("completed", "the server gives no reason"),
    **dict.fromkeys(("abort", "cancelled"), _ABORTED),
    **dict.fromkeys(("error", "insufficient_system_resource"), FinishReason("retried", "the server had an error")),
    **dict.fromkeys(("content_filter", "safety", "recitation"), _FILTERED),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), _TOOL),
    "refusal": FinishReason("failed", "the model refused to answer"),
    "repetition": FinishReason("failed", "the server stopped a repetition"),
}
"""The meaning of each `finish_reason`; any other one fails its row. docs/rephrasing.md has the same table."""
OTHER = FinishReason("failed", "it is not known whether the text is complete")
NO_TEXT = "the completion has no text"
ONLY_THOUGHT = f"{NO_TEXT}: the model spent max_tokens on reasoning. Raise --max-tokens"


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
    """A row without a completion: the reason, its kind (`http_400`, `unanswered`, `no_text`, ...), and its tokens."""

    reason: str
    kind: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def read_completion(body: bytes) -> Completion | FailedRow:
    """Return the completion in a response's body, or why the completion cannot be used.

    Raises:
        NotACompletion: the body holds none, or one that was aborted; another attempt may succeed.
    """
    try:
        response = _loads(body)
        if response.get("error"):
            raise ValueError("the server broke off")
        choice = response["choices"][0]
        message = choice["message"]
        text = _text(message.get("content"))
        given = str(choice.get("finish_reason") or "unknown")
        refusal = str(message.get("refusal") or "")
        tokens = _reported(response, "prompt_tokens"), _reported(response, "completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise NotACompletion(f"HTTP 200, but not a chat completion: {read_error(body)}") from error
    if refusal:
        return FailedRow(f"the model refused to answer: {refusal}", "refusal", *tokens)
    reason = FINISH_REASONS.get(given.lower(), OTHER)
    name = reason.name or readable(given, 50)
    problem = f"finish_reason {name}: {reason.meaning}"
    if reason.outcome == "retried":
        raise NotACompletion(problem)
    if reason.outcome == "failed":
        return FailedRow(problem, "finish_reason", *tokens)
    if not any(letter.isprintable() and letter != " " for letter in text):
        if message.get("tool_calls") or message.get("function_call"):
            return FailedRow(f"{NO_TEXT}: {_TOOL.meaning}", "no_text", *tokens)
        reasoned = message.get("reasoning") or message.get("reasoning_content")
        if name == "length":
            return FailedRow(ONLY_THOUGHT if reasoned else f"{NO_TEXT}, but used up max_tokens", "no_text", *tokens)
        return FailedRow(f"{NO_TEXT}, only reasoning" if reasoned else NO_TEXT, "no_text", *tokens)
    return Completion(text=text, finish_reason=name, prompt_tokens=tokens[0], completion_tokens=tokens[1])


def read_count(body: bytes) -> int:
    """Return the number of tokens in an answer of `/tokenize`; raise NotACompletion if it holds none."""
    with contextlib.suppress(ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        if count := _count(_loads(body)["count"]):
            return count
    raise NotACompletion(f"no number of tokens: {read_error(body)}")


def _text(content: Any) -> str:
    """Return a message's content, which may be null, a string, or a list of parts."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise TypeError("content is no text")
    return _encodable(content or "")


def read_error(body: bytes) -> str:
    """Return the message of a server's error, in any of the usual JSON shapes or as plain text."""
    try:
        text = body[: 8 * REASON_CHARACTERS].decode("utf-8", "replace")
        if not body.isascii():
            body.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(body):,} bytes of binary data"
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        content = _loads(body)
        error = content.get("error", content) if isinstance(content, dict) else content
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        text = str(message or content)
    return readable(text) or "no message"


def readable(text: str, characters: int = REASON_CHARACTERS) -> str:
    """Return the beginning of a server's text on one line, without what could act on a terminal."""
    text = _TERMINAL.sub(" ", text[: 8 * characters])
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(_encodable(text).split())[:characters].rstrip()


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        import json  # reads lone surrogates, too

        return json.loads(body)


def _count(tokens: Any) -> int:
    count = int(tokens or 0)
    if not 0 <= count < MAX_TOKENS:
        raise ValueError(f"{tokens} tokens")
    return count


def _reported(response: Mapping[str, Any], field: str) -> int:
    """Return a number of tokens; 0 for one that is impossible, since a text that was paid for is kept without it."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return _count(response["usage"].get(field))
    return 0


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can express but UTF-8 cannot."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
