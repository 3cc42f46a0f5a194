"""Divide long documents into pieces before they are tokenised, as the published study does.

Each piece gets an end-of-text token of its own, so attention never spans two pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

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
