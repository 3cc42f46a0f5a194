"""What a source yields: documents, and dropped rows, each with the reason.

Every input row becomes one of the two, so that a corpus accounts for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from finephrase_dagster.errors import FinephraseError

SHOWN = 60  # characters of a wrong id in a message


class CorpusError(FinephraseError):
    """A source cannot be read as the study describes it; the message names the source and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document.

    Attributes:
        id: unique within its corpus, and the same whenever the same source is read.
        text: its text, never blank, always encodable as UTF-8.
        source: where the row came from: a file, a distribution, a dataset, a page's address.
        tokens: the number of tokens as the source counts them; None where it does not. Not part of the document's
            identity.
    """

    id: str
    text: str
    source: str
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A row that was read but is no document; rows are counted by `reason`, and the first is shown with `where`."""

    source: str
    reason: str
    where: str = ""


Row = Document | Dropped


class TextFlaw(NamedTuple):
    """Why a value cannot be a document's text.

    Attributes:
        reason: the kind of flaw; rows are counted by it.
        detail: what exactly is wrong with this value; may be empty.
    """

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} {self.detail}".rstrip()


def text_flaw(text: object) -> TextFlaw | None:
    """Return why a value cannot be a document's text; None if it can."""
    if text is None:
        return TextFlaw("text is missing")
    if not isinstance(text, str):
        return TextFlaw("text is not a string", f"({type(text).__name__})")
    if not text or text.isspace():
        return TextFlaw("text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # Readers keep a byte that is not UTF-8 as the surrogate U+DC80 to U+DCFF (`surrogateescape`).
        code = ord(text[error.start])
        unit = f"byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else "half of a surrogate pair"
        return TextFlaw("text is not UTF-8", f"({unit} at character {error.start})")
    return None


def row_id(value: Any, column: str, where: str) -> str:
    """Return a row's id as text: a string, or an exact whole number of any size, digit by digit, or a UUID.

    Args:
        where: the file and row, for messages.

    Raises:
        CorpusError: the value is no id.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise CorpusError(f"{where} has no id in column {column!r}; give every row an id of its own")
    if isinstance(value, Decimal) and value.is_finite() and value.as_tuple().exponent == 0:
        return format(value, "f")
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        kind = type(value).__name__
        raise CorpusError(f"{where} has the id {str(value)[:SHOWN]!r} ({kind}); an id is a string or a whole number")
    if text_flaw(str(value)):
        raise CorpusError(f"{where} has an id that is not UTF-8; correct it")
    return str(value)
