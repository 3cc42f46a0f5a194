"""The documents that completions were made from, joined by id in memory that does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from typing import Protocol

import numpy as np

from finephrase_dagster.audit.dataset import AuditError, open_sources
from finephrase_dagster.audit.span import Span
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.ids import short_hash

_SORTED_AT_ONCE = 1 << 22
_ENTRY, _PACKED = np.dtype([("hash", "<u8"), ("offset", "<u8"), ("bytes", "<u8")]), Struct("<QQQ")


Lookup = Callable[[Sequence[str]], list[str | None]]
"""Returns the sources of rows by their ids, None for one that is missing; called for all rows in their order."""


class SourceTexts(Protocol):
    """The sources of consecutive rows."""

    def lookup(self) -> Lookup:
        """Begin with the first row."""


def join_sources(paths: Sequence[str | Path], parts: Sequence[Sequence[Span]], folder: Path) -> list[SourceTexts]:
    """Return the sources for each part of a dataset.

    Sources in the order of the dataset's rows are read along with them. Otherwise their texts are first copied to a
    file in `folder`, and looked up by id.

    Args:
        paths: files or folders with the columns `id` and `text`.
        parts: the dataset's rows, in consecutive parts.
        folder: an empty folder with room for the texts.

    Raises:
        AuditError: the sources cannot be read, or there are none.
    """
    files = open_sources(paths)
    try:
        if (starts := _starts(files, parts)) is not None:
            return [OrderedSources(start) for start in starts]
        _write_index(files, folder)
    except CorpusError as error:
        raise AuditError(str(error)) from error
    return [IndexedSources(folder) for _ in parts]


@dataclass(frozen=True)
class OrderedSources:
    """Sources in the order of the rows; the first span begins with that of the first row."""

    files: Sequence[Span]

    def lookup(self) -> Lookup:
        rows = ((row.id, row.text) for span in self.files for row in span.rows())
        present, text = "", ""

        def texts(ids: Sequence[str]) -> list[str | None]:
            nonlocal present, text
            found = []
            for name in ids:
                while present != name:
                    present, text = next(rows)
                found.append(text or None)
            return found

        return texts


@dataclass(frozen=True)
class IndexedSources:
    """Sources in a file, with an index that is sorted by the hashes of their ids."""

    folder: Path

    def lookup(self) -> Lookup:
        index = np.memmap(self.folder / "index", _ENTRY, "r")
        file = (self.folder / "texts").open("rb")

        def texts(ids: Sequence[str]) -> list[str | None]:
            hashes = np.array([short_hash(name) for name in ids], np.uint64)
            places = np.minimum(np.searchsorted(index["hash"], hashes), len(index) - 1)
            return [
                os.pread(file.fileno(), size, offset).decode() if wanted == present else None
                for wanted, (present, offset, size) in zip(hashes.tolist(), index[places].tolist(), strict=True)
            ]

        return texts


def _starts(files: Sequence[Span], parts: Sequence[Sequence[Span]]) -> list[list[Span]] | None:
    """Return the sources of each part, from that of its first row on; None if they are not in the order of the rows."""
    sources = ((name, index, number) for index, span in enumerate(files) for name, number in span.ids())
    place = next(sources, None)
    starts = []
    for part in parts:
        start = None
        for name in (name for span in part for name, _ in span.ids()):
            while place is not None and place[0] != name:
                place = next(sources, None)
            if place is None:
                return None
            start = start or place
        _, file, number = start or ("", 0, 1)
        starts.append([replace(files[file], start=number - 1), *files[file + 1 :]])
    return starts


def _write_index(files: Sequence[Span], folder: Path) -> None:
    """Write the texts one after the other, and their places sorted by hash."""
    offset = 0
    with (folder / "texts").open("wb", 1 << 20) as texts, (folder / "places").open("wb", 1 << 20) as places:
        for row in (row for span in files for row in span.rows() if row.text):
            text = row.text.encode()
            texts.write(text)
            places.write(_PACKED.pack(short_hash(row.id), offset, len(text)))
            offset += len(text)
    if not offset:
        raise AuditError(f"{files[0].url}: has no texts; name another --source")
    entries = np.memmap(folder / "places", _ENTRY, "r")
    bits = (len(entries) // _SORTED_AT_ONCE).bit_length()  # of a hash, that decide when it is sorted
    with (folder / "index").open("wb") as index:
        for group in range(2**bits):
            blocks = (entries[start : start + _SORTED_AT_ONCE] for start in range(0, len(entries), _SORTED_AT_ONCE))
            chosen = np.concatenate([block[block["hash"] >> 1 >> (63 - bits) == group] for block in blocks])
            index.write(chosen[np.argsort(chosen["hash"], kind="stable")].tobytes())
