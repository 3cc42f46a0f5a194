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
MARKS = "\u2018\u201c\u201d\u2013\u2014\u2026\u2022\u00a0"  # common ones, which are not letters
_MARKS = [mark.encode() for mark in MARKS]
_CURLY = "\x01"  # in place of a curly apostrophe
_APOSTROPHES, _NO_LETTERS = b"'\x01", b" '\x01"
_LETTERS = bytes(ord(char.lower()) if char.isalnum() or char in "_'\x01" else 32 for char in map(chr, range(128)))
_LETTERS += bytes(128)  # of bytes that do not occur
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
    return separated_words(text).split()


def separated_words(text: str) -> str:
    """Return the words of a text with spaces between them; see `split_words`."""
    plain = text.encode(errors="surrogatepass")  # bytes are searched faster than characters
    if not text.isascii():
        for mark in _MARKS:
            plain = plain.replace(mark, b" ")
        plain = plain.replace("\u2019".encode(), _CURLY.encode())
    if not plain.isascii() or _CURLY in text:
        return " ".join(_WORD.findall(text.lower()))
    # Three times as fast as the pattern: only letters, digits and apostrophes within words are left.
    letters = bytearray(b" %b " % plain).translate(_LETTERS)
    for apostrophe in _APOSTROPHES:
        place = letters.find(apostrophe)
        while place >= 0:
            if letters[place - 1] in _NO_LETTERS or letters[place + 1] in _NO_LETTERS:
                letters[place] = 32
            place = letters.find(apostrophe, place + 1)
    return letters.decode().replace(_CURLY, "\u2019")


def hash_words(words: Sequence[str]) -> Hashes:
    """Return the hashes of words, which are the same in every process."""
    return np.fromiter(map(_WORD_HASHES.__getitem__, words), np.uint64, len(words))
