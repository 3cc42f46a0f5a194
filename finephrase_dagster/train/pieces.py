"""What is done to texts before they are tokenised: long documents become pieces, and controls are shuffled.

Pieces are as in the published study: each gets an end-of-text token of its own, so attention never spans two pieces.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np

LONGEST = 100_000  # characters; arXiv 2604.13977
ENDS = ("\n\n", "\n", ". ", " ")
"""Where a piece may end, best first: after a paragraph, a line, a sentence, a word."""


def pieces(text: str, longest: int = LONGEST) -> Iterator[str]:
    """Yield a text in pieces of at most `longest` characters.

    White space between two pieces is dropped. A text that is short enough is yielded unchanged.
    """
    while len(text) > longest:
        end = _end(text, longest)
        if piece := text[:end].rstrip():
            yield piece
        text = text[end:].lstrip()
    if text.strip():
        yield text


def _end(text: str, longest: int) -> int:
    """Return where the first piece ends: after the last possible end of the best kind."""
    for end in ENDS:
        place = text.rfind(end, 0, longest)
        if place > 0:
            return place + len(end)
    return longest


def shuffle_words(text: str, key: str) -> str:
    """Return a text with its words in another order, which depends on the text's id and its number of words alone.

    White space stays where it is, so that lines and paragraphs keep their number of words.
    """
    parts: list[str] = re.split(r"(\s+)", text)
    words = [index for index, part in enumerate(parts) if index % 2 == 0 and part]
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    order = np.random.default_rng(seed).permutation(len(words))
    for index, word in zip(words, [parts[words[number]] for number in order], strict=True):
        parts[index] = word
    return "".join(parts)
