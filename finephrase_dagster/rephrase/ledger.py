"""The ledger of one dataset: which rows are done, where they stand, and that none is lost.

The input rows of a shard are done in chunks. A finished chunk is one Parquet file of completions under
its final name and, before it, one of the rows that got none; a file that stands there is finished, so the
files themselves say what is left to do. Chunks are named by their first row and say in their footer which
rows they cover, so that the size of chunks may change from one run to the next.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finephrase_dagster.study.artifact import whole_file
from finephrase_dagster.study.fingerprint import sha256_file

REJECTED = "rejected.parquet"
CHUNKS_REJECTED = ".rejected"
FOOTER = b"finephrase"

COMPLETED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("truncated", pa.bool_()),
        ("document_sha256", pa.string()),
    ]
)
REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("status", pa.string()), ("reason", pa.string())])


class LedgerError(RuntimeError):
    """A dataset's finished files do not fit its corpus, or cannot be written; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A row with its completion."""

    id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    truncated: bool
    document_sha256: str


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A row without one."""

    id: str
    status: Literal["skipped", "failed"]
    reason: str


Outcome = Completed | Rejected


@dataclass
class Chunk:
    """Rows `first` to `end` (exclusive) of a shard, and what became of them so far."""

    shard: int
    first: int
    end: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"part-{self.shard:05d}-{self.first:09d}.parquet"

    @property
    def full(self) -> bool:
        return len(self.outcomes) == self.end - self.first

    def add(self, row: int, outcome: Outcome) -> None:
        """Enters one row's outcome; each row has one."""
        if not self.first <= row < self.end or row in self.outcomes:
            raise LedgerError(f"{self.name}: row {row} is not of this chunk, or is entered twice")
        self.outcomes[row] = outcome


class Ledger:
    """The files of one prompt's dataset in its folder, which the caller has claimed."""

    def __init__(self, folder: Path, prompt: str) -> None:
        self.folder = folder
        self.prompt = prompt
        (folder / CHUNKS_REJECTED).mkdir(exist_ok=True)

    def open_chunks(self, shard: int, ids: Sequence[str], chunk_rows: int) -> list[Chunk]:
        """The chunks that are left to do of a shard with these ids, in order.

        Raises:
            LedgerError: a finished chunk covers other rows than the shard holds there.
        """
        chunks: list[Chunk] = []
        row = 0
        for first, end, digest in self._finished(shard):
            if digest != _digest(ids[first:end]):
                raise LedgerError(
                    f"{self.folder}: rows {first} to {end} of shard {shard} were done from a corpus in another "
                    "order or division; put that corpus back, or delete this folder to do all of it again"
                )
            chunks += _chunks(shard, row, first, chunk_rows)
            row = end
        return [*chunks, *_chunks(shard, row, len(ids), chunk_rows)]

    def publish(self, chunk: Chunk) -> None:
        """Writes a full chunk under its final name, the rows without completion first.

        Raises:
            LedgerError: it cannot be written; finished chunks stay.
        """
        if not chunk.full:
            raise LedgerError(f"{chunk.name}: {len(chunk.outcomes)} of {chunk.end - chunk.first} rows are done")
        outcomes = [chunk.outcomes[row] for row in range(chunk.first, chunk.end)]
        covers = [chunk.first, chunk.end, _digest(outcome.id for outcome in outcomes)]
        rejected = [vars(outcome) for outcome in outcomes if isinstance(outcome, Rejected)]
        completed = [{**vars(outcome), "prompt": self.prompt} for outcome in outcomes if isinstance(outcome, Completed)]
        _write(self.folder / CHUNKS_REJECTED / chunk.name, rejected, REJECTED_SCHEMA)
        schema = COMPLETED_SCHEMA.with_metadata({FOOTER: json.dumps(covers).encode()})
        _write(self.folder / chunk.name, completed, schema)

    def parts(self) -> list[Path]:
        """The finished data files, in order."""
        return sorted(self.folder.glob("part-*.parquet"))

    def reject_file(self) -> Path:
        """Writes `rejected.parquet` from what the chunks rejected."""
        path = self.folder / REJECTED
        with whole_file(path) as temporary, pq.ParquetWriter(temporary, REJECTED_SCHEMA) as writer:
            for part in self.parts():
                writer.write_table(pq.read_table(self.folder / CHUNKS_REJECTED / part.name))
        return path

    def account(self, rows_in: int) -> Account:
        """Counts all rows of all finished chunks.

        Raises:
            LedgerError: completed, skipped and failed do not add up to the corpus's rows.
        """
        account = Account(rows_in=rows_in)
        for part in self.parts():
            tokens = pq.read_table(part, columns=["prompt_tokens", "completion_tokens"])
            account.completed += tokens.num_rows
            account.prompt_tokens += pc.sum(tokens["prompt_tokens"]).as_py() or 0
            account.completion_tokens += pc.sum(tokens["completion_tokens"]).as_py() or 0
            account.files.append({"path": part.name, "rows": tokens.num_rows, "sha256": sha256_file(part)})
            for row in pq.read_table(self.folder / CHUNKS_REJECTED / part.name).to_pylist():
                account.rejected[row["status"], row["reason"]] += 1
        if rows_in != account.completed + account.skipped + account.failed:
            raise LedgerError(
                f"{self.folder}: {rows_in} rows went in, but {account.completed} are completed, "
                f"{account.skipped} skipped and {account.failed} failed; delete this folder and run again"
            )
        return account

    def discard(self) -> None:
        """Removes all finished chunks."""
        for part in self.parts():
            part.unlink()
        self.tidy()

    def tidy(self) -> None:
        """Removes what is needed only until the manifest stands."""
        shutil.rmtree(self.folder / CHUNKS_REJECTED, ignore_errors=True)

    def _finished(self, shard: int) -> list[tuple[int, int, str]]:
        return sorted(self._covered(path) for path in self.folder.glob(f"part-{shard:05d}-*.parquet"))

    def _covered(self, path: Path) -> tuple[int, int, str]:
        try:
            first, end, digest = json.loads(pq.read_schema(path).metadata[FOOTER])
            pq.read_metadata(self.folder / CHUNKS_REJECTED / path.name)
        except (OSError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
            raise LedgerError(f"{path}: not a finished chunk ({error}); delete it and run again") from error
        return first, end, digest


@dataclass(kw_only=True)
class Account:
    """What became of every row of a dataset."""

    rows_in: int
    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def skipped(self) -> int:
        return self._rejected("skipped")

    @property
    def failed(self) -> int:
        return self._rejected("failed")

    def _rejected(self, status: str) -> int:
        return sum(count for (of, _), count in self.rejected.items() if of == status)

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it."""
        names = ("rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens", "files")
        return {name: getattr(self, name) for name in names}


def _chunks(shard: int, first: int, end: int, chunk_rows: int) -> Iterator[Chunk]:
    for row in range(first, end, chunk_rows):
        yield Chunk(shard, row, min(row + chunk_rows, end))


def _digest(ids: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for one in ids:
        digest.update(one.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    try:
        with whole_file(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema), temporary, compression="zstd")
    except OSError as error:
        raise LedgerError(
            f"{path}: cannot be written ({error.strerror or error}); finished chunks are kept: "
            "make room or correct the folder, then run again"
        ) from error
