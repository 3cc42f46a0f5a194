"""A corpus on disk: numbered Parquet shards, written whole, each continued after by whoever is interrupted."""

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

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.corpora.document import CorpusError, Document, Row
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.corpora.progress import Progress, Shard, Step
from finephrase_dagster.corpora.source import SourceReader
from finephrase_dagster.corpora.tally import Tally

SHARDS = "shard-*.parquet"
ROW_GROUP = 1_000  # documents that are in memory at once, also for a reader of one column
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "sha256", "source")])
LAYOUT = 1  # of the journal and the shards; raised with a change of either
SECONDS_A_MESSAGE = 60.0


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """What was written.

    Attributes:
        tally: the figures.
        tokens_basis: what the number of tokens says: the name of a column, or how it was estimated.
        shards: the files, in order.
    """

    tally: Tally
    tokens_basis: str
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return self.tally.rows

    @property
    def content(self) -> str:
        """The identity of the documents, whatever their order and the shards' size."""
        return self.tally.content

    @property
    def figures(self) -> dict[str, Any]:
        """What a manifest says of a corpus; `files` are the shards, each with rows, bytes and SHA-256."""
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


def write_corpus(
    reader: SourceReader, folder: Path, *, shard_documents: int, log: Callable[[str], None] = lambda message: None
) -> CorpusFacts:
    """Writes `shard-00000.parquet` and so on, with columns id, text, sha256 and source.

    Goes on after the last shard that an interrupted writer of the same rows finished here: what comes out is the
    same, byte for byte, as if nobody had been interrupted.

    Args:
        reader: what a source yields.
        folder: an existing folder that nobody else writes.
        shard_documents: documents a shard.
        log: told now and then how far it has come.

    Raises:
        CorpusError: the source cannot be read as the study says, or holds no document.
        OSError: the folder cannot be written; what is finished is kept.
    """
    header = {"layout": LAYOUT, "shard_documents": shard_documents, "source": reader.identity}
    progress = Progress(folder, header, log)
    for path in set(folder.glob(SHARDS)) - {folder / shard.path for shard in progress.shards}:
        path.unlink()
    tally, position = Tally(), {}
    if progress.last is not None:
        tally, position = Tally.of(progress.last.tally), progress.last.position
        log(f"source {reader.name}: goes on after {tally.rows:,} documents in {len(progress.shards):,} shards")
    written = IdSet(map(id_hash, _ids(folder, progress.shards)))
    clock = _Clock(reader.name, tally, log)
    documents = _kept(reader.rows(position, written), clock)
    while first := list(islice(documents, min(ROW_GROUP, shard_documents))):
        path = folder / f"shard-{len(progress.shards):05d}.parquet"
        shard = _write_shard(path, first, documents, shard_documents, tally)
        clock.tick()
        progress.add(Step(shard=shard, position=reader.position(), tally=tally.saved()))
    clock.tick()
    if not tally.rows:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(tally.dropped.items()))
        raise CorpusError(
            f"source {reader.name}: holds no documents ({reasons or 'no rows at all'}); "
            "correct its section in the study file"
        )
    return CorpusFacts(tally=tally, tokens_basis=tally.basis(reader.token_column), shards=tuple(progress.shards))


def read_corpus(folder: Path) -> Iterator[Document]:
    """The documents of a written corpus, in the order of its shards.

    Raises:
        CorpusError: the folder has no shards.
    """
    shards = sorted(folder.glob(SHARDS))
    if not shards:
        raise CorpusError(f"{folder}: no shards of a corpus; materialise the source first")
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=["id", "text", "source"]):
                for row in batch.to_pylist():
                    yield Document(**row)


class _Clock:
    """Adds the time that passes to a tally, and says now and then how far it has come."""

    def __init__(self, name: str, tally: Tally, log: Callable[[str], None]) -> None:
        self._name, self.tally, self._log = name, tally, log
        self._since = self._told = time.monotonic()
        self._read = 0  # rows since it was told last

    def row(self) -> None:
        """Counts a row that was read."""
        self._read += 1
        if self._read % ROW_GROUP == 0 and time.monotonic() - self._told >= SECONDS_A_MESSAGE:
            self._tell()

    def tick(self) -> None:
        now = time.monotonic()
        self.tally.seconds += now - self._since
        self._since = now

    def _tell(self) -> None:
        now = time.monotonic()
        dropped = sum(self.tally.dropped.values())
        speed = self._read / (now - self._told)
        self._log(
            f"source {self._name}: {self.tally.rows:,} documents, {dropped:,} rows dropped, {speed:,.0f} rows a second"
        )
        self._told, self._read = now, 0


class _HashedFile(io.RawIOBase):
    """A file that is written from its beginning to its end, and hashed on the way."""

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
            clock.tally.drop(row.reason)


def _write_shard(
    path: Path, batch: list[Document], documents: Iterator[Document], shard_documents: int, tally: Tally
) -> Shard:
    """Writes a shard, row group by row group: `batch`, and what follows it."""
    rows = 0
    with atomic_write(path) as temporary, _HashedFile(temporary) as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            while batch:
                writer.write_table(_table(batch, tally.add(batch)))
                rows += len(batch)
                batch = list(islice(documents, min(ROW_GROUP, shard_documents - rows)))
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
    """The ids of finished shards; their texts are not read.

    Raises:
        CorpusError: one is broken.
    """
    for shard in shards:
        try:
            with pq.ParquetFile(folder / shard.path) as file:
                for batch in file.iter_batches(columns=["id"]):
                    yield from batch.column("id").to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"{folder / shard.path}: cannot be read ({error}); delete it, and run again") from error
