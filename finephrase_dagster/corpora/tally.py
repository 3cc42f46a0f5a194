"""What a corpus holds, added up row by row; as JSON at any time, and continued from that."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from finephrase_dagster.corpora.document import Document

BYTES_A_TOKEN = 4  # of UTF-8, where a source does not count its tokens
ESTIMATE = f"estimate: UTF-8 bytes / {BYTES_A_TOKEN}"
_CONTENTS = 2**256


@dataclass
class Tally:
    """The figures of the documents so far.

    Attributes:
        rows: documents.
        characters: of all texts together.
        bytes: of all texts in UTF-8.
        counted_tokens: of the documents whose source counts them.
        uncounted: documents whose source does not.
        uncounted_bytes: of their texts.
        dropped: rows that were read and not kept, by reason.
        content_sum: the sum of the documents' hashes, in hex: the same in any order.
        order: a chain of these hashes, in hex.
        seconds: that the writing took, interruptions left out.
    """

    rows: int = 0
    characters: int = 0
    bytes: int = 0
    counted_tokens: int = 0
    uncounted: int = 0
    uncounted_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    content_sum: str = "0"
    order: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Tally:
        """Continues from what `saved` gave."""
        return cls(**saved)

    def saved(self) -> dict[str, Any]:
        return asdict(self)

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def add(self, documents: Sequence[Document]) -> list[str]:
        """Adds documents in their order; gives the SHA-256 of each text, in hex."""
        content, order = int(self.content_sum, 16), bytes.fromhex(self.order)
        digests = []
        for document in documents:
            text = document.text.encode()
            digest = hashlib.sha256(text)
            digests.append(digest.hexdigest())
            # The text's hash has one length: where the id ends is certain.
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
        """The identity of the documents, whatever their order and the shards' size."""
        return hashlib.sha256(int(self.content_sum, 16).to_bytes(32) + self.rows.to_bytes(8)).hexdigest()

    @property
    def tokens(self) -> int:
        """As the source counts them, and estimated where it does not."""
        return self.counted_tokens + self.uncounted_bytes // BYTES_A_TOKEN

    def basis(self, token_column: str | None) -> str:
        """What `tokens` says: the column they come from, or how they were estimated."""
        if token_column is None or self.uncounted == self.rows:
            return ESTIMATE
        rest = f", and for {self.uncounted} documents without: {ESTIMATE}" if self.uncounted else ""
        return token_column + rest
