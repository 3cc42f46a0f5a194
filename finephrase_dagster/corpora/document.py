"""What a source yields: documents, and rows that are no documents, each with the reason.

Every input row becomes one of the two, so that a corpus can account for all it was given.
"""

from __future__ import annotations

from dataclasses import dataclass

from finephrase_dagster.errors import FinephraseError


class CorpusError(FinephraseError):
    """A source cannot be read as the study says; the message names the source and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document.

    Attributes:
        id: unique within its corpus, and the same whenever the same source is read.
        text: its text, never blank, always encodable as UTF-8.
        source: where the row came from (a file, a distribution, a dataset, a page's address).
        tokens: as the source counts them; None where it does not. No part of the document's identity.
    """

    id: str
    text: str
    source: str
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A row that was read and not kept; rows are counted by `reason`."""

    source: str
    reason: str


Row = Document | Dropped


def text_flaw(text: object) -> str | None:
    """Why a value cannot be a document's text; None where it can."""
    if text is None:
        return "no text"
    if not isinstance(text, str):
        return "text is not a string"
    if not text.strip():
        return "empty text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "text is not valid Unicode"
    return None
