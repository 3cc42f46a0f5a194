"""The ledger of one dataset: which rows are done, where they stand, and that none is lost.

Every outcome is in a journal before its request's place is given to the next. A chunk of rows that are all
done becomes one Parquet file of completions (`part-*`), then its account (`__meta__/chunks/part-*`: the rows that
got no completion and, in the footer, what the part holds); then its journal goes. So the files say what is
done, whatever killed the writer, and rows are known by their ids: order, division into files and size of
chunks may change from one run to the next.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.rephrase.dataset import (
    CHUNKS,
    Account,
    Dataset,
    LedgerError,
    json_bytes,
    parquet,
    read_parquet,
    sha256_bytes,
    write_manifest,
)
from finephrase_dagster.rephrase.folder import Folder, Journal
from finephrase_dagster.rephrase.outcome import Completed, Outcome, Rejected, record, records

FOOTER = b"finephrase"

COMPLETED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("document_cut", pa.bool_()),
        ("document_sha256", pa.string()),
    ]
)
RAW = pa.field("raw", pa.string())
REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("status", pa.string()), ("reason", pa.string())])


@dataclass
class Chunk:
    """Rows that become one file."""

    name: str
    journal: Journal
    assigned: int = 0
    entered: int = 0
    closed: bool = False

    @property
    def full(self) -> bool:
        return self.closed and self.entered == self.assigned


class Ledger:
    """The rows of one prompt's dataset, in its folder, which the caller has claimed."""

    def __init__(self, folder: Folder, prompt: str, *, chunk_rows: int, keep_raw: bool = False) -> None:
        self.folder = folder
        self.prompt = prompt
        self._chunk_rows = chunk_rows
        self._schema = COMPLETED_SCHEMA.append(RAW) if keep_raw else COMPLETED_SCHEMA
        self._open: dict[int, Chunk] = {}
        self._chunks: list[Chunk] = []
        self._one_publishes = threading.Lock()
        self._left_over = folder.journals()
        self._adopt_parts()
        self._next = _next_numbers([*self._left_over, *map(_stem, folder.names(f"{CHUNKS}/*.parquet"))])
        self.published = 0  # chunks
        self.example: str | None = None  # the id of a row that is completed
        self._done = self._found()

    @property
    def found(self) -> int:
        """How many rows earlier runs had done."""
        return len(self._done)

    def is_done(self, name: str) -> bool:
        """Whether an earlier run did the row of this id."""
        return bool(len(self._done)) and id_hash(name) in self._done

    def assign(self, shard: int) -> tuple[Chunk, int]:
        """The chunk that the next row of a shard will stand in, and its place there."""
        chunk = self._open.get(shard)
        if chunk is None:
            name = f"part-{shard:05d}-{self._next[shard]:05d}"
            self._next[shard] += 1
            with self._writing():
                chunk = self._open[shard] = Chunk(name, self.folder.journal(name))
            self._chunks.append(chunk)
        chunk.assigned += 1
        if chunk.assigned == self._chunk_rows:
            self.close(shard)
        return chunk, chunk.assigned

    def close(self, shard: int) -> None:
        """Says that no more rows come for a shard's present chunk."""
        chunk = self._open.pop(shard, None)
        if chunk is not None:
            chunk.closed = True

    def enter(self, chunk: Chunk, place: int, outcome: Outcome) -> None:
        """Enters what became of a row; from here on it is not done again."""
        with self._writing():
            chunk.journal.append(record(place, outcome))
        chunk.entered += 1

    def publish_full(self) -> None:
        """Turns chunks whose rows are all done into files under their final names."""
        with self._one_publishes, self._writing():
            for chunk in [chunk for chunk in self._chunks if chunk.full]:
                self._publish(chunk.name, chunk.journal)
                self._chunks.remove(chunk)

    def publish_left_over(self) -> None:
        """Does the same with what an interrupted run left, however few rows that are."""
        with self._one_publishes, self._writing():
            while self._left_over:
                name = self._left_over[0]
                self._publish(name, self.folder.journal(name))
                self._left_over.pop(0)

    def sync(self) -> None:
        """Makes all that was entered survive the machine's death, too."""
        with self._writing():
            for chunk in list(self._chunks):
                chunk.journal.sync()

    def release(self) -> None:
        """Lets go of the journals of chunks that are not full; their rows are kept."""
        for chunk in self._chunks:
            chunk.journal.close()

    def account(self, rows_in: int) -> Account:
        """Counts all rows of all finished chunks.

        Raises:
            LedgerError: completed, skipped and failed do not add up to the input's rows, or a file is missing.
        """
        account = Account(rows_in=rows_in)
        parts = set(self.folder.names("part-*.parquet"))
        for name in self.folder.names(f"{CHUNKS}/*.parquet"):
            rejected, part = self._chunk_account(name)
            if part["rows"]:
                if part["path"] not in parts:
                    raise LedgerError(f"{self.folder}: {part['path']} is missing; delete {name} and run again")
                account.files.append({key: part[key] for key in ("path", "rows", "sha256")})
            account.completed += part["rows"]
            account.prompt_tokens += part["prompt_tokens"]
            account.completion_tokens += part["completion_tokens"]
            account.documents_cut += part["documents_cut"]
            for row in rejected.to_pylist():
                account.rejected[row["status"], row["reason"]] += 1
        if rows_in != account.completed + account.skipped + account.failed:
            raise LedgerError(
                f"{self.folder}: {rows_in} rows went in, but {account.completed} are completed, "
                f"{account.skipped} skipped and {account.failed} failed; delete this folder and run again"
            )
        return account

    def complete(self, dataset: Dataset, account: Account, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Writes `rejected.parquet` and then the manifest: from here on the dataset is complete."""
        names = self.folder.names(f"{CHUNKS}/*.parquet")
        rejected = [self._chunk_account(name)[0] for name in names]
        with self._writing():
            manifest = write_manifest(
                dataset, account, pa.concat_tables([REJECTED_SCHEMA.empty_table(), *rejected]), facts
            )
            for name in names:  # needed only until the manifest stands
                self.folder.remove(name)
        return manifest

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise LedgerError(f"{self.folder}: {error.filename} was taken away; run again") from error
        except OSError as error:
            raise LedgerError(
                f"{self.folder}: cannot be written ({error.strerror or error}); what is done is kept: make room or "
                "correct the folder, then run again"
            ) from error

    def _publish(self, name: str, journal: Journal) -> None:
        rows = dict(sorted(records(journal.read())))
        completed = [row for row in rows.values() if isinstance(row, Completed)]
        part: dict[str, Any] = {
            "path": f"{name}.parquet",
            "rows": len(completed),
            "prompt_tokens": sum(row.prompt_tokens for row in completed),
            "completion_tokens": sum(row.completion_tokens for row in completed),
            "documents_cut": sum(row.document_cut for row in completed),
        }
        if completed:
            content = parquet(self._table(completed))
            part["sha256"] = sha256_bytes(content)
            self.folder.write(part["path"], content)
        self._write_account(name, [row for row in rows.values() if isinstance(row, Rejected)], part)
        self.published += 1
        journal.remove()

    def _write_account(self, name: str, rejected: list[Rejected], part: Mapping[str, Any]) -> None:
        columns = [[getattr(row, name) for row in rejected] for name in REJECTED_SCHEMA.names]
        schema = REJECTED_SCHEMA.with_metadata({FOOTER: json_bytes(part)})
        self.folder.write(f"{CHUNKS}/{name}.parquet", parquet(pa.table(columns, schema=schema)))

    def _table(self, rows: list[Completed]) -> pa.Table:
        columns: list[Any] = []
        for field_ in self._schema:
            values = (
                [self.prompt] * len(rows) if field_.name == "prompt" else [getattr(row, field_.name) for row in rows]
            )
            columns.append(pa.array(values, field_.type))
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _adopt_parts(self) -> None:
        """Writes the accounts of parts that have neither one nor a journal: somebody deleted it, or the manifest."""
        accounts = {_stem(name) for name in self.folder.names(f"{CHUNKS}/*.parquet")}
        for path in self.folder.names("part-*.parquet"):
            if _stem(path) not in accounts and _stem(path) not in self._left_over:
                content = self.folder.read(path)
                table = self._read_part(path, content, ["prompt_tokens", "completion_tokens", "document_cut"])
                part = {"path": path, "rows": table.num_rows, "sha256": sha256_bytes(content)}
                part |= {name: pc.sum(table[name]).as_py() or 0 for name in ("prompt_tokens", "completion_tokens")}
                part["documents_cut"] = pc.sum(table["document_cut"]).as_py() or 0
                with self._writing():
                    self._write_account(_stem(path), [], part)

    def _found(self) -> IdSet:
        """The ids of all rows that stand in files or journals."""
        return IdSet(id_hash(name) for name in self._ids())

    def _ids(self) -> Iterator[str]:
        journals = set(self._left_over)
        for name in self.folder.names(f"{CHUNKS}/*.parquet"):
            if _stem(name) in journals:  # killed between its account and the end of its journal
                continue
            rejected, part = self._chunk_account(name)
            yield from rejected["id"].to_pylist()
            if part["rows"]:
                ids = self._part_ids(part)
                self.example = ids[0]
                yield from ids
        for name in self._left_over:
            journal = self.folder.journal(name)
            for _, outcome in records(journal.read()):
                if isinstance(outcome, Completed):
                    self.example = outcome.id
                yield outcome.id
            journal.close()

    def _part_ids(self, part: Mapping[str, Any]) -> list[str]:
        path = part["path"]
        try:
            content = self.folder.read(path)
        except FileNotFoundError as error:
            raise LedgerError(
                f"{self.folder}: {path} is missing; delete {CHUNKS}/{path} and run again, which does its rows again"
            ) from error
        if sha256_bytes(content) != part["sha256"]:
            raise self._damaged(path, "its content is not what was written")
        return self._read_part(path, content, ["id"])["id"].to_pylist()

    def _read_part(self, path: str, content: bytes, columns: list[str]) -> pa.Table:
        try:
            return read_parquet(content, columns)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(path, str(error)) from error

    def _damaged(self, path: str, flaw: str) -> LedgerError:
        return LedgerError(
            f"{self.folder}: {path} is damaged ({flaw}); delete it and {CHUNKS}/{path} and run again, which does its "
            "rows again"
        )

    def _chunk_account(self, name: str) -> tuple[pa.Table, dict[str, Any]]:
        try:
            rejected = read_parquet(self.folder.read(name))
            return rejected.replace_schema_metadata(None), json.loads(rejected.schema.metadata[FOOTER])
        except (OSError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
            raise LedgerError(
                f"{self.folder}: {name} is damaged ({error}); delete it and {_stem(name)}.parquet and run again, "
                "which does their rows again"
            ) from error


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")


def _next_numbers(chunks: Iterable[str]) -> Counter[int]:
    """By shard, the number after the last of its chunks."""
    numbers: Counter[int] = Counter()
    for name in chunks:
        if match := re.fullmatch(r"part-(\d+)-(\d+)", name):
            shard = int(match[1])
            numbers[shard] = max(numbers[shard], int(match[2]) + 1)
    return numbers
