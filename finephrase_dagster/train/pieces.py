"""Pieces: what a long document is divided into before it is tokenised, as the published study did.

Each piece ends with an end-of-text token of its own, so attention never spans more than one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

LONGEST = 100_000  # characters; arXiv 2604.13977
ENDS = ("\n\n", "\n", ". ", " ")
"""Where a piece may end, best first: a paragraph, a line, a sentence, a word."""


def pieces(text: str, longest: int = LONGEST) -> Iterator[str]:
    """The text in pieces of at most `longest` characters, each as long as its end allows.

    White space between two pieces is left out. A text that is short enough is one piece, as it is.
    """
    while len(text) > longest:
        end = _end(text, longest)
        if piece := text[:end].rstrip():
            yield piece
        text = text[end:].lstrip()
    if text.strip():
        yield text


def _end(text: str, longest: int) -> int:
    """Where the first piece ends: behind the last of the best ends that lie in its reach."""
    for end in ENDS:
        place = text.rfind(end, 0, longest)
        if place > 0:
            return place + len(end)
    return longest
