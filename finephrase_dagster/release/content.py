"""The columns of a release, and the hash of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS: Mapping[str, tuple[pa.DataType, str]] = {
    "id": (pa.string(), "the id of the source document"),
    "text": (pa.string(), "the completion, cleaned"),
    "prompt": (pa.string(), "the name of the prompt"),
    "finish_reason": (pa.string(), "`stop`, or `length` if the completion was cut at the most tokens"),
    "prompt_tokens": (pa.int64(), "tokens of the request"),
    "completion_tokens": (pa.int64(), "tokens of the completion"),
    "document_cut": (pa.bool_(), "whether the end of the document was cut off to fit the context"),
    "document_sha256": (pa.string(), "SHA-256 of the source document's text"),
    "cleaned": (pa.string(), "the cleaning rules that removed something, joined by commas"),
}
"""The columns that the rows of a synthetic dataset bring along: type and description by name."""
ORIGIN: Mapping[str, tuple[pa.DataType, str]] = {
    "source": (pa.string(), "the source corpus"),
    "source_version": (pa.string(), "hash of the corpus's rows"),
    "source_shard": (pa.string(), "the file of the corpus that has the document"),
    "prompt_sha256": (pa.string(), "hash of the prompt's texts"),
    "model": (pa.string(), "the model that wrote the completion"),
    "model_revision": (pa.string(), "its commit on the hub, or a hash of its files"),
    "recipe_fingerprint": (pa.string(), "hash of everything that determines the row's dataset"),
    "seed": (pa.int64(), "the seed that the request's own seed is derived from; null: the server chose it"),
}
"""The columns that say where a row comes from."""
SCHEMA = pa.schema([(name, type_) for name, (type_, _) in {**COLUMNS, **ORIGIN}.items()])


class ContentHash:
    """Hash and sums of rows in order; they do not depend on how rows are divided into files and row groups."""

    def __init__(self) -> None:
        self.rows = self.prompt_tokens = self.completion_tokens = 0
        self._columns = {name: [hashlib.sha256() for _ in range(3)] for name in COLUMNS}

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table that has at least `COLUMNS`."""
        self.rows += table.num_rows
        self.prompt_tokens += pc.sum(table["prompt_tokens"]).as_py() or 0
        self.completion_tokens += pc.sum(table["completion_tokens"]).as_py() or 0
        for name, (values, lengths, valid) in self._columns.items():
            for chunk in table[name].chunks:
                valid.update(chunk.is_valid().cast(pa.uint8()).to_numpy())
                if chunk.type == pa.string():
                    _, offsets, data = chunk.buffers()
                    place = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
                    lengths.update(np.diff(place).tobytes())
                    values.update(memoryview(data or b"")[place[0] : place[-1]])
                else:
                    values.update(chunk.cast(pa.int64()).fill_null(0).to_numpy())

    def hexdigest(self) -> str:
        """Return the hash of all rows."""
        digests = [part.digest() for parts in self._columns.values() for part in parts]
        return hashlib.sha256(b"".join(digests)).hexdigest()
