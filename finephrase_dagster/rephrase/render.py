"""Renders a prompt and a document as chat messages, and cuts the document so that prompt and completion fit.

Only the end of the document is cut; the instruction stays complete, before or after the document. `Renderer` counts the
tokens of the complete prompt, chat template included, with the generator's tokenizer, so its limit is exact
(`TRUNCATION` in `artifacts/versions.py`). It does not tokenize a document whose UTF-8 bytes already fit, if the
tokenizer never makes more tokens than bytes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from finephrase_dagster.corpora.tokenizer import read_tokenizer
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.generators.template_clock import dated_template
from finephrase_dagster.study.prompt import Prompt

PROBE = "\u2042finephrase\u2042"  # a stand-in for the document, to find it in a rendered prompt
TEMPLATE_TOKENS = 128  # upper bound of a chat template's tokens for two messages; common models need 10 to 50
LONGEST_TOKEN = 32  # characters; a document is never counted beyond this many per token
MOST_COUNTS = 6  # of one document
TURN_TOKENS = 16  # upper bound of its tokens for each further message; common models need 2 to 7

_OPENING = re.compile(r"(?:<(think|thinking|thought|reasoning)>|\[THINK\])\s*\Z")

Message = dict[str, str]


class ChatTemplateError(FinephraseError, exit_status=2):
    """The generator's tokenizer cannot render a conversation."""


class TokenizerUnreadable(ChatTemplateError):
    """There is no tokenizer, or it cannot be loaded."""


class PromptDoesNotFit(FinephraseError, exit_status=2):
    """A prompt leaves no room for a document."""


@dataclass(frozen=True)
class Rendered:
    """The messages of one request, and whether the document was cut; `is_estimate`: a count may show that it fits."""

    messages: list[Message]
    document_cut: bool
    is_estimate: bool = False


CountTokens = Callable[[list[Message]], Awaitable[int]]


class RendererLike(Protocol):
    """Fills prompts with documents."""

    @property
    def opening(self) -> str:
        """The beginning of a thought that the chat template writes in the model's place; empty if not known."""

    def render(self, prompt: str, document: str) -> Rendered:
        """Return the messages for a document and the prompt with a given name."""


def messages(prompt: Prompt, document: str) -> list[Message]:
    """Return the conversation that asks for a completion."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, *({"role": turn.role, "content": turn.text} for turn in prompt.fill(document))]


class ByteRenderer:
    """Renders documents for a model whose tokenizer is not available, and counts each UTF-8 byte as a token.

    Byte-level tokenizers never make more tokens than that. The chat template may add at most TEMPLATE_TOKENS,
    and TURN_TOKENS for each message after the second.
    """

    opening = ""

    def __init__(self, *, prompts: Mapping[str, Prompt], context: int, max_tokens: int) -> None:
        """Check that each prompt fits with an empty document; arguments and errors as for `Renderer`."""
        self._prompts = dict(prompts)
        self._room = context - max_tokens
        self._rooms: dict[str, int] = {}
        for name, prompt in self._prompts.items():
            empty = messages(prompt, "")
            frame = TEMPLATE_TOKENS + TURN_TOKENS * max(0, len(empty) - 2)
            frame += sum(_bytes(message["content"]) for message in empty)
            self._rooms[name] = self._room - frame
            if self._rooms[name] <= 0:
                raise PromptDoesNotFit(
                    f"prompt {name}: may need {frame} tokens without a document, but a context of {context} leaves "
                    f"only {context - max_tokens} next to max_tokens {max_tokens}; raise the context, lower "
                    "max_tokens, or name the model's tokenizer, so that tokens are counted exactly"
                )

    @property
    def longest(self) -> int:
        """Number of bytes of the longest document that fits with all prompts for certain."""
        return min(self._rooms.values())

    def render(self, prompt: str, document: str) -> Rendered:
        """Return the messages for a document and the prompt with a given name."""
        room = self._rooms[prompt]
        document_cut = len(document) > room or _bytes(document) > room
        if document_cut:
            document = document.encode("utf-8")[:room].decode("utf-8", "ignore")
        return Rendered(messages(self._prompts[prompt], document), document_cut=document_cut)


class CountedRenderer(ByteRenderer):
    """Renders documents for an endpoint that counts tokens; it is only asked about documents that may not fit."""

    def __init__(self, *, prompts: Mapping[str, Prompt], context: int, max_tokens: int) -> None:
        super().__init__(prompts=prompts, context=context, max_tokens=max_tokens)
        self._frames: dict[str, int] = {}

    def render(self, prompt: str, document: str) -> Rendered:
        """Return messages that fit for certain; if the document was cut for that, `fit` may keep more of it."""
        rendered = super().render(prompt, document)
        return replace(rendered, is_estimate=rendered.document_cut)

    async def fit(self, prompt: str, document: str, count: CountTokens) -> Rendered:
        """Return the messages for a document, cut only if it does not fit, to at least 98 % of the room.

        `count` returns the tokens of messages, chat template included. They grow about evenly with the characters, so
        a few counts are enough.
        """
        if prompt not in self._frames:
            self._frames[prompt] = await count(messages(self._prompts[prompt], ""))
        frame = self._frames[prompt]
        fits, too_long = 0, min(len(document), self._room * LONGEST_TOKEN) + 1
        guess = too_long - 1
        for _ in range(MOST_COUNTS):
            tokens = await count(messages(self._prompts[prompt], document[:guess]))
            if tokens <= self._room:
                fits = guess
                if fits == too_long - 1 or tokens >= 0.98 * self._room:
                    break
            else:
                too_long = guess
            guess = guess * (self._room - frame) // max(1, tokens - frame)
            guess = min(max(guess, fits + 1), too_long - 1)
        if not fits:
            return super().render(prompt, document)
        return Rendered(messages(self._prompts[prompt], document[:fits]), document_cut=fits < len(document))


class Renderer:
    """Renders documents for a model, and counts tokens with the model's tokenizer."""

    def __init__(
        self,
        *,
        model: Path | str,
        prompts: Mapping[str, Prompt],
        context: int,
        max_tokens: int,
        day: str | None = None,
    ) -> None:
        """Load the tokenizer and check that each prompt fits with an empty document.

        Args:
            model: the model's folder or hub name; its tokenizer and chat template are used, its code is not.
            context: maximum number of tokens of prompt and completion together.
            max_tokens: number of tokens reserved for the completion.
            day: the date for a chat template that inserts one; None: today.

        Raises:
            TokenizerUnreadable: there is no tokenizer.
            ChatTemplateError: there is no chat template, or the template rejects the messages.
            PromptDoesNotFit: a prompt does not fit without a document; the message names it.
        """
        try:
            self._tokenizer: Any = read_tokenizer(model)
        except (OSError, ValueError) as error:
            raise TokenizerUnreadable(f"{model}: the tokenizer cannot be loaded: {error}") from error
        if day is not None and (template := dated_template(model, day)):
            self._tokenizer.chat_template = template
        self._prompts = dict(prompts)
        self.room = context - max_tokens
        self._frames: dict[str, tuple[int, int]] = {}
        for name in self._prompts:
            self._frames[name] = self._measure(name, context, max_tokens)

    def render(self, prompt: str, document: str) -> Rendered:
        """Return the messages for a document and the prompt with a given name."""
        frame_bytes, frame_tokens = self._frames[prompt]
        if self._byte_bounded(document) and frame_bytes + _bytes(document) <= self.room:
            return Rendered(self._messages(prompt, document), document_cut=False)
        # No token is longer than the longest vocabulary entry, so text beyond this length cannot fit.
        kept = document[: self.room * self._longest_token]
        if len(kept) == len(document) and self._tokens(prompt, document) <= self.room:
            return Rendered(self._messages(prompt, document), document_cut=False)
        kept = self._cut(kept, self.room - frame_tokens)
        while kept and (excess := self._tokens(prompt, kept) - self.room) > 0:
            kept = self._cut(kept, self._count(kept) - excess)
        return Rendered(self._messages(prompt, kept), document_cut=True)

    @cached_property
    def opening(self) -> str:
        return match[0] if (match := _OPENING.search(self._text(next(iter(self._prompts)), ""))) else ""

    def _measure(self, name: str, context: int, max_tokens: int) -> tuple[int, int]:
        """Return the bytes and the tokens that a prompt has in addition to its document."""
        try:
            tokens = self._tokens(name, "")
            text = self._text(name, PROBE)
        except Exception as error:  # jinja's and the template's own errors have no common class
            raise ChatTemplateError(
                f"prompt {name}: the generator's chat template cannot render it: {error}"
            ) from error
        if PROBE not in text:
            raise ChatTemplateError(f"prompt {name}: the generator's chat template omits the document")
        if tokens >= self.room:
            raise PromptDoesNotFit(
                f"prompt {name}: needs {tokens} tokens without a document, but a context of {context} leaves only "
                f"{self.room} next to max_tokens {max_tokens}; raise the context or lower max_tokens"
            )
        return _bytes(text) - _bytes(PROBE), tokens

    def _messages(self, prompt: str, document: str) -> list[Message]:
        return messages(self._prompts[prompt], document)

    def _text(self, prompt: str, document: str) -> str:
        return self._tokenizer.apply_chat_template(
            self._messages(prompt, document), tokenize=False, add_generation_prompt=True
        )

    def _tokens(self, prompt: str, document: str) -> int:
        return self._count(self._text(prompt, document))

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def _cut(self, document: str, tokens: int) -> str:
        """Return the longest prefix of a document that ends within its first `tokens` tokens."""
        if tokens <= 0:
            return ""
        offsets = self._tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) <= tokens:
            return document
        # A token that begins inside a character has that character's offsets, so the complete character is cut.
        return document[: offsets[tokens][0]]

    @cached_property
    def _longest_token(self) -> int:
        return max(len(token) for token in self._tokenizer.get_vocab())

    @cached_property
    def _pipeline(self) -> dict[str, Any]:
        return json.loads(self._tokenizer.backend_tokenizer.to_str())

    def _byte_bounded(self, document: str) -> bool:
        """Return whether a document has at most one token per byte: byte-level BPE that does not rewrite it."""
        if not self._is_byte_level:
            return False
        normalizer = self._pipeline["normalizer"]
        return normalizer is None or (normalizer["type"] == "NFC" and unicodedata.is_normalized("NFC", document))

    @cached_property
    def _is_byte_level(self) -> bool:
        pre_tokenizer = self._pipeline["pre_tokenizer"] or {}
        steps = [pre_tokenizer, *pre_tokenizer.get("pretokenizers", [])]
        return any(step.get("type") == "ByteLevel" and not step.get("add_prefix_space") for step in steps)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
