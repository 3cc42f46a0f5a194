"""The published chunks of a dataset that is being written.

A chunk has a data file (`part-*.parquet`) and a summary (`__meta__/chunks/part-*.parquet`), which holds the rejected
rows and, in its footer, what the ledger needs to know of both: counts, hashes, and which rows of the input they are.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.rephrase.dataset import (
    CHUNKS,
    DATA_FILES,
    REJECTED_SCHEMA,
    LedgerError,
    json_bytes,
    parquet,
    read_parquet,
    sha256_bytes,
)
from finephrase_dagster.rephrase.journals import Finished
from finephrase_dagster.rephrase.outcome import NONE, Rejected, count_rules

FOOTER = b"finephrase"
PARTS = f"{META}/parts.json"
FIGURES = ["prompt_tokens", "completion_tokens", "document_cut", "cleaned"]
FILES_AT_ONCE = 200


class PublishedChunks:
    """The summaries in a folder that the caller has claimed.

    Attributes:
        parts: the footers of the summaries, by the chunks' names. `completed` and `others` are the stretches of rows
            with and without a completion, in the order of rows that `layout` is the hash of.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.parts: dict[str, dict[str, Any]] = {}
        names = folder.names(f"{CHUNKS}/*.parquet")
        for first in range(0, len(names), FILES_AT_ONCE):
            batch = names[first : first + FILES_AT_ONCE]
            for name, content in zip(batch, folder.read_all(batch), strict=True):
                self.parts[chunk_of(name)] = self._footer(name, content)

    def publish(self, name: str, finished: Finished) -> None:
        """Write the data file of a chunk, if it has completions, and then its summary."""
        self.parts[name] = write_chunk(self._folder, name, finished)

    def adopt(self, unpublished: Iterable[str]) -> None:
        """Write summaries for data files without one, whose chunk is not unpublished: somebody deleted the manifest.

        A second file of a known chunk is from a writer that was killed, or whose lease was taken over: it is deleted.
        """
        known = {*self.parts, *unpublished}
        listed = {part["path"] for part in self.parts.values()}
        files = self._folder.names(DATA_FILES)
        self._folder.remove_all([path for path in files if chunk_of(path) in known and path not in listed])
        orphans = [path for path in files if chunk_of(path) not in known]
        kept = self._kept() if orphans else {}
        for path in orphans:
            part = kept.get(path) or self._part_of(path)
            self.parts[chunk_of(path)] = part
            self._folder.write(f"{CHUNKS}/{chunk_of(path)}.parquet", _summary([], part))

    def check_files(self) -> None:
        """Compare the data files with the summaries; those that have changed since they were written are hashed.

        Raises:
            LedgerError: a file is missing or damaged.
        """
        parts = [part for part in self.parts.values() if part["rows"]]
        stamps = self._folder.stamps([part["path"] for part in parts])
        for part in parts:
            path = part["path"]
            if path not in stamps:
                raise LedgerError(
                    f"{self._folder}: {path} is missing. Delete {CHUNKS}/{chunk_of(path)}.parquet and run the command "
                    "again to redo its rows."
                )
            if list(stamps[path]) != part.get("stamp"):
                if self._folder.sha256(path) != part["sha256"]:
                    raise self._damaged(path, "its content has changed")
                part["stamp"] = list(stamps[path])

    def ids(self, name: str) -> Iterator[str]:
        """Yield the ids of all rows of a chunk."""
        part = self.parts[name]
        if part["rows"]:
            yield from self._read(part["path"], self._folder.read(part["path"]), ["id"])["id"].to_pylist()
        yield from self.rejected(name)["id"].to_pylist()

    def rejected(self, name: str) -> pa.Table:
        """Return the rejected rows of a chunk."""
        if not self.parts[name]["others"]:
            return REJECTED_SCHEMA.empty_table()
        table = self._read(f"{CHUNKS}/{name}.parquet", self._folder.read(f"{CHUNKS}/{name}.parquet"))
        return table.replace_schema_metadata(None)

    def keep(self) -> None:
        """Write down what a complete dataset's data files hold, should its manifest be deleted."""
        self._folder.write(PARTS, json_bytes([part for part in self.parts.values() if part["rows"]]))

    def remove(self) -> None:
        """Delete the summaries."""
        self._folder.remove_all([f"{CHUNKS}/{name}.parquet" for name in self.parts])
        self.parts.clear()

    def _kept(self) -> dict[str, dict[str, Any]]:
        """Return the parts of a dataset that was complete, by the paths of their files, as if nothing was rejected."""
        try:
            parts = {part["path"]: part for part in json.loads(self._folder.read(PARTS))}
        except (OSError, ValueError, TypeError, KeyError):
            return {}
        return {path: {**part, "others": [], "rejected": [], "rollouts": []} for path, part in parts.items()}

    def _part_of(self, path: str) -> dict[str, Any]:
        """Return what the footer of a data file's summary holds, without the rows' places in the input."""
        content = self._folder.read(path)
        table = self._read(path, content, FIGURES)
        return {
            "path": path,
            "rows": table.num_rows,
            "sha256": sha256_bytes(content),
            **{name: pc.sum(table[name]).as_py() or 0 for name in ("prompt_tokens", "completion_tokens")},
            "documents_cut": pc.sum(table["document_cut"]).as_py() or 0,
            "cleaned": count_rules(table["cleaned"].to_pylist()),
            "layout": "",
            "others": [],
            "rejected": [],
            "discarded": NONE,
            "rollouts": [],
        }

    def _footer(self, name: str, content: bytes) -> dict[str, Any]:
        try:
            return _footer(content)
        except (OSError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
            raise LedgerError(
                f"{self._folder}: {name} is damaged ({error}). Delete it and {chunk_of(name)}*.parquet, and run the "
                "command again to redo their rows."
            ) from error

    def _read(self, path: str, content: bytes, columns: list[str] | None = None) -> pa.Table:
        try:
            return read_parquet(content, columns)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(path, str(error)) from error

    def _damaged(self, path: str, flaw: str) -> LedgerError:
        return LedgerError(
            f"{self._folder}: {path} is damaged ({flaw}). Delete it and {CHUNKS}/{chunk_of(path)}.parquet, and run the "
            "command again to redo its rows."
        )


def write_chunk(folder: Folder, name: str, finished: Finished) -> dict[str, Any]:
    """Write the data file of a chunk, if it has completions, and then its summary; return the summary's footer."""
    part = _write_data(folder, f"{name}.parquet", finished)
    folder.write(f"{CHUNKS}/{name}.parquet", _summary(finished.rejected, part))
    return part


def write_chunk_once(folder: Folder, name: str, finished: Finished, writer: str) -> bool:
    """Write a chunk that another process may write, too; return False, and leave no file, if it has done so.

    Args:
        writer: a name that no other writer of the chunk has; it is part of the data file's name.
    """
    part = _write_data(folder, f"{name}-{writer}.parquet", finished)
    summary = f"{CHUNKS}/{name}.parquet"
    if folder.create(summary, _summary(finished.rejected, part)):
        return True
    if _footer(folder.read(summary))["path"] == part["path"]:  # of an attempt whose end did not reach the store
        return True
    folder.remove(part["path"])
    return False


def _write_data(folder: Folder, path: str, finished: Finished) -> dict[str, Any]:
    part = {"path": path, **finished.part}
    if finished.table is not None:
        content = parquet(finished.table)
        folder.write(path, content)
        part |= {"sha256": sha256_bytes(content), "stamp": list(folder.stamps([path])[path])}
    return part


def _summary(rejected: Sequence[Rejected], part: Mapping[str, Any]) -> bytes:
    columns = [[getattr(row, name) for row in rejected] for name in REJECTED_SCHEMA.names]
    table = pa.table(columns, schema=REJECTED_SCHEMA)
    return parquet(table.replace_schema_metadata({FOOTER: json_bytes(part)}))


def _footer(summary: bytes) -> dict[str, Any]:
    with pq.ParquetFile(io.BytesIO(summary)) as file:
        return dict(json.loads(file.schema_arrow.metadata[FOOTER]))


def chunk_of(path: str) -> str:
    """Return the name of a chunk, given its summary, journal or data file; the latter may end with a writer's name."""
    match = re.match(r"part-\d+-r?\d+", PurePosixPath(path).stem)
    return match[0] if match else PurePosixPath(path).stem


def place_of(name: str) -> tuple[int, int]:
    """Return the input file that a chunk's rows are from, and the chunk's number among those of the file.

    A chunk with an `r` before its number is a shard (`artifacts.lease.RowShard`), numbered by its first row.
    """
    match = re.fullmatch(r"part-(\d+)-r?(\d+)", name)
    return (int(match[1]), int(match[2])) if match else (-1, -1)
