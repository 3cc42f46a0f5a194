"""A corpus on disk: numbered Parquet shards. An interrupted run resumes after its last finished shard."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import Contents, atomic_write
from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.corpora.document import CorpusError, Document, Row
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.corpora.journal import CorpusJournal, JournalEntry, Shard
from finephrase_dagster.corpora.source import SourceReader, read_source
from finephrase_dagster.corpora.tally import Tally
from finephrase_dagster.study.source import SourceSpec

SHARD_DOCUMENTS = 10_000
SHARDS = "shard-*.parquet"
ROW_GROUP = 1_000  # most documents that are in memory at once, also for a reader of one column
ROW_GROUP_CHARACTERS = 64 << 20  # of their texts; a document that is longer is a row group by itself
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "sha256", "source")])
LAYOUT = 3  # of the journal and the shards; raise it when either changes
SECONDS_PER_MESSAGE = 60.0


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """A corpus that was written.

    Attributes:
        tokens_basis: where the number of tokens comes from: a column, or how it was estimated.
    """

    tally: Tally
    tokens_basis: str
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return self.tally.rows

    @property
    def content(self) -> str:
        """The identity of the documents; it does not depend on their order or on the size of shards."""
        return self.tally.content

    @property
    def figures(self) -> dict[str, Any]:
        """The figures for a manifest; `files` lists the shards, each with rows, bytes and SHA-256."""
        tally = self.tally
        return {
            "rows": tally.rows,
            "tokens": tally.tokens,
            "tokens_basis": self.tokens_basis,
            "characters": tally.characters,
            "text_bytes": tally.bytes,
            "dropped": dict(sorted(tally.dropped.items())),
            "order": tally.order,
            "seconds": round(tally.seconds, 3),
            "files": [asdict(shard) for shard in self.shards],
        }


def make_corpus(
    source: SourceSpec, name: str, requirements: Path, folder: Path, log: Callable[[str], None]
) -> Contents:
    """Write the corpus of a study's source into an artifact's folder; see `read_source` and `write_corpus`."""
    reader = read_source(source, name, requirements=requirements)
    facts = write_corpus(reader, folder, shard_documents=SHARD_DOCUMENTS, log=log)
    return Contents(files=(), facts=facts.figures, version=facts.content[:SHORT])


def write_corpus(
    reader: SourceReader, folder: Path, *, shard_documents: int, log: Callable[[str], None] = lambda message: None
) -> CorpusFacts:
    """Write `shard-00000.parquet` and so on, with the columns id, text, sha256 and source.

    Resumes after the last shard that an interrupted run over the same rows finished in the folder. The result is the
    same, byte for byte, as that of an uninterrupted run.

    Args:
        folder: an existing folder that no other process writes to.

    Raises:
        CorpusError: the source cannot be read as the study describes it, or has no documents.
        OSError: the folder cannot be written; finished shards are kept.
    """
    header = {"layout": LAYOUT, "shard_documents": shard_documents, "source": reader.identity}
    journal = CorpusJournal(folder, header, log)
    for path in set(folder.glob(SHARDS)) - {folder / shard.path for shard in journal.shards}:
        path.unlink()
    tally, position = Tally(), {}
    if journal.last is not None:
        tally, position = Tally.of(journal.last.tally), journal.last.position
        log(f"source {reader.name}: resumes after {tally.rows:,} documents in {len(journal.shards):,} shards")
    written = IdSet(map(id_hash, _ids(folder, journal.shards)))
    clock = _Clock(reader.name, tally, log)
    documents = _kept(reader.rows(position, written), clock)
    while first := _row_group(documents, shard_documents):
        path = folder / f"shard-{len(journal.shards):05d}.parquet"
        shard = _write_shard(path, first, documents, shard_documents, tally)
        clock.tick()
        journal.add(JournalEntry(shard=shard, position=reader.position(), tally=tally.saved()))
    clock.tick()
    if not tally.rows:
        losses = tally.losses or "no rows"
        raise CorpusError(f"source {reader.name}: has no documents ({losses}); correct its section in the study file")
    if tally.dropped:
        log(f"source {reader.name}: {tally.rows:,} documents; rows dropped: {tally.losses}")
    return CorpusFacts(tally=tally, tokens_basis=tally.basis(reader.token_column), shards=tuple(journal.shards))


def read_corpus(folder: Path) -> Iterator[Document]:
    """Yield the documents of a written corpus, in the order of its shards.

    Raises:
        CorpusError: the folder has no shards.
    """
    shards = sorted(folder.glob(SHARDS))
    if not shards:
        raise CorpusError(f"{folder}: has no shards of a corpus; materialize the source first")
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=["id", "text", "source"]):
                for row in batch.to_pylist():
                    yield Document(**row)


class _Clock:
    """Adds the time that passes to a tally, and logs the progress from time to time."""

    def __init__(self, name: str, tally: Tally, log: Callable[[str], None]) -> None:
        self._name, self.tally, self._log = name, tally, log
        self._since = self._logged = time.monotonic()
        self._read = 0  # rows since the last message

    def row(self) -> None:
        """Count a row that was read."""
        self._read += 1
        if self._read % ROW_GROUP == 0 and time.monotonic() - self._logged >= SECONDS_PER_MESSAGE:
            self._log_progress()

    def tick(self) -> None:
        now = time.monotonic()
        self.tally.seconds += now - self._since
        self._since = now

    def _log_progress(self) -> None:
        now = time.monotonic()
        dropped = sum(self.tally.dropped.values())
        speed = self._read / (now - self._logged)
        self._log(f"source {self._name}: {self.tally.rows:,} documents, {dropped:,} rows dropped, {speed:,.0f} rows/s")
        self._logged, self._read = now, 0


class HashedFile(io.RawIOBase):
    """A file that is hashed while it is written from beginning to end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.digest = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def write(self, data: Any) -> int:
        self._file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _kept(rows: Iterator[Row], clock: _Clock) -> Iterator[Document]:
    for row in rows:
        clock.row()
        if isinstance(row, Document):
            yield row
        else:
            clock.tally.drop(row)


def _row_group(documents: Iterator[Document], most: int) -> list[Document]:
    """Return the next documents that are written at once."""
    batch, characters = [], 0
    for document in islice(documents, min(ROW_GROUP, most)):
        batch.append(document)
        characters += len(document.text)
        if characters >= ROW_GROUP_CHARACTERS:
            break
    return batch


def _write_shard(
    path: Path, batch: list[Document], documents: Iterator[Document], shard_documents: int, tally: Tally
) -> Shard:
    """Write a shard, row group by row group: `batch`, then further documents."""
    rows = 0
    with atomic_write(path) as temporary, HashedFile(temporary) as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            while batch:
                writer.write_table(_table(batch, tally.add(batch)))
                rows += len(batch)
                batch = _row_group(documents, shard_documents - rows)
    return Shard(path=path.name, rows=rows, bytes=file.bytes, sha256=file.digest.hexdigest())


def _table(documents: list[Document], digests: list[str]) -> pa.Table:
    columns = [
        [document.id for document in documents],
        [document.text for document in documents],
        digests,
        [document.source for document in documents],
    ]
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=SCHEMA)


def _ids(folder: Path, shards: list[Shard]) -> Iterator[str]:
    """Yield the ids in finished shards, without reading their texts.

    Raises:
        CorpusError: a shard is broken.
    """
    for shard in shards:
        try:
            with pq.ParquetFile(folder / shard.path) as file:
                for batch in file.iter_batches(columns=["id"]):
                    yield from batch.column("id").to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"{folder / shard.path}: cannot be read ({error}); delete it and run again") from error
