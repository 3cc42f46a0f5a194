"""The figures of a corpus, added up row by row. They can be saved as JSON at any time and continued from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from finephrase_dagster.corpora.document import Document, Dropped

BYTES_PER_TOKEN = 4  # of UTF-8, for a source that does not count its tokens
ESTIMATE = f"estimate: UTF-8 bytes / {BYTES_PER_TOKEN}"
MOST_OF_A_PLACE = 300  # characters
_CONTENTS = 2**256


@dataclass
class Tally:
    """The figures of the documents so far.

    Attributes:
        rows: the number of documents.
        bytes: the UTF-8 bytes of all texts.
        counted_tokens: the tokens of documents whose source counts them.
        uncounted: the number of documents whose source does not count tokens.
        uncounted_bytes: the UTF-8 bytes of their texts.
        dropped: the number of dropped rows, by reason.
        first_dropped: the place of the first row that was dropped for each reason.
        content_sum: the sum of the documents' hashes, in hex; it does not depend on their order.
        order: a chain of these hashes, in hex; it depends on their order.
        seconds: the time spent writing, without interruptions.
    """

    rows: int = 0
    characters: int = 0
    bytes: int = 0
    counted_tokens: int = 0
    uncounted: int = 0
    uncounted_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first_dropped: dict[str, str] = field(default_factory=dict)
    content_sum: str = "0"
    order: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Tally:
        """Continue from saved figures."""
        return cls(**saved)

    def saved(self) -> dict[str, Any]:
        return asdict(self)

    def drop(self, row: Dropped) -> None:
        self.dropped[row.reason] = self.dropped.get(row.reason, 0) + 1
        self.first_dropped.setdefault(row.reason, (row.where or row.source)[:MOST_OF_A_PLACE])

    @property
    def losses(self) -> str:
        """The dropped rows by reason, each with the place of the first, in one line."""
        return "; ".join(
            f"{count:,} x {reason} (first: {self.first_dropped[reason]})"
            for reason, count in sorted(self.dropped.items())
        )

    def add(self, documents: Sequence[Document]) -> list[str]:
        """Add documents in their order, and return the SHA-256 of each text in hex."""
        content, order = int(self.content_sum, 16), bytes.fromhex(self.order)
        digests = []
        for document in documents:
            text = document.text.encode()
            digest = hashlib.sha256(text)
            digests.append(digest.hexdigest())
            # All hashes have the same length, so it is unambiguous where the id ends.
            row = hashlib.sha256(document.id.encode() + digest.digest()).digest()
            content += int.from_bytes(row)
            order = hashlib.sha256(order + row).digest()
            self.characters += len(document.text)
            self.bytes += len(text)
            if document.tokens is None:
                self.uncounted += 1
                self.uncounted_bytes += len(text)
            else:
                self.counted_tokens += document.tokens
        self.rows += len(documents)
        self.content_sum, self.order = f"{content % _CONTENTS:x}", order.hex()
        return digests

    @property
    def content(self) -> str:
        """The identity of the documents; it does not depend on their order or on the size of shards."""
        return hashlib.sha256(int(self.content_sum, 16).to_bytes(32) + self.rows.to_bytes(8)).hexdigest()

    @property
    def tokens(self) -> int:
        """The number of tokens: counted by the source, or estimated where it does not count."""
        return self.counted_tokens + self.uncounted_bytes // BYTES_PER_TOKEN

    def basis(self, token_column: str | None) -> str:
        """Return where `tokens` comes from: a column, or how it was estimated."""
        if token_column is None or self.uncounted == self.rows:
            return ESTIMATE
        rest = f", and for {self.uncounted} documents without: {ESTIMATE}" if self.uncounted else ""
        return token_column + rest
