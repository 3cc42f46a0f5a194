"""The words of a text and their hashes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.corpora.ids import short_hash

Hashes = NDArray[np.uint64]

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # and kana
_WORD = re.compile(rf"[^\W{_IDEOGRAPHS}]+(?:['\u2019][^\W{_IDEOGRAPHS}]+)*|[{_IDEOGRAPHS}]")
_VOCABULARY = 1 << 16  # words whose hashes are kept


class _WordHashes(dict[str, int]):
    """The hashes of words, computed when they are first asked for."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _VOCABULARY:
            self.clear()
        self[word] = hash = short_hash(word)
        return hash


_WORD_HASHES = _WordHashes()


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case; each character of Chinese and Japanese is one."""
    return _WORD.findall(text.lower())


def hash_words(words: Sequence[str]) -> Hashes:
    """Return the hashes of words, which are the same in every process."""
    return np.fromiter(map(_WORD_HASHES.__getitem__, words), np.uint64, len(words))
