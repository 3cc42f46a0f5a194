"""The words of many rows at once: several times as fast as row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.ngrams import slices
from finephrase_dagster.audit.prefilter import text_column
from finephrase_dagster.audit.words import hash_words, separated_words


def share_words(rows: Sequence[AuditedRow]) -> None:
    """Compute the words of rows and of their sources, and their hashes, as the rows themselves would."""
    for few in slices(rows):
        _share(few, [row.text for row in few], "words", "word_hashes")
        _share(few, [row.source_text or "" for row in few], "source_words", "source_word_hashes")


def _share(rows: Sequence[AuditedRow], texts: Sequence[str], words_name: str, hashes_name: str) -> None:
    split = pc.ascii_split_whitespace(text_column([separated_words(text).strip() or None for text in texts]))
    encoded = split.flatten().dictionary_encode()
    vocabulary = encoded.dictionary.to_pylist()
    indices = np.frombuffer(encoded.indices.buffers()[1], np.int32, len(encoded))
    words = np.array(vocabulary, object)[indices]
    hashes = hash_words(vocabulary)[indices]
    ends = split.offsets.to_pylist()
    for row, start, end in zip(rows, ends[:-1], ends[1:], strict=True):
        vars(row).update({words_name: words[start:end].tolist(), hashes_name: hashes[start:end]})
