"""A corpus on disk: numbered Parquet shards, written whole, and what they hold in figures."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped
from finephrase_dagster.study.artifact import whole_file
from finephrase_dagster.study.fingerprint import canonical, sha256_text

SHARDS = "shard-*.parquet"
ROW_GROUP = 1_000  # documents; what a reader of one column holds in memory
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "sha256", "source")])


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """What was written.

    Attributes:
        rows: documents.
        characters: of all texts together.
        bytes: of all texts in UTF-8.
        dropped: rows that were read and not kept, by reason.
        content: the identity of the documents, whatever their order and the shards' size.
        order: the identity of their order.
        files: the shards, in order.
    """

    rows: int
    characters: int
    bytes: int
    dropped: dict[str, int]
    content: str
    order: str
    files: tuple[Path, ...]


def write_corpus(
    documents: Iterable[Document | Dropped], output: Path, *, shard_documents: int, name: str
) -> CorpusFacts:
    """Writes `shard-00000.parquet` and so on, with columns id, text, sha256 and source.

    Shards that an interrupted writer left in `output` are replaced.

    Args:
        documents: what a source yields.
        output: an existing folder that nobody else writes.
        shard_documents: documents a shard.
        name: the source's name, for messages.

    Raises:
        CorpusError: there is no document.
    """
    for stale in output.glob(SHARDS):
        stale.unlink()
    dropped: Counter[str] = Counter()
    identities: list[tuple[str, str]] = []
    characters = size = 0
    files: list[Path] = []
    kept = _kept(documents, dropped)
    while shard := list(islice(kept, shard_documents)):
        hashes = [sha256_text(document.text) for document in shard]
        path = output / f"shard-{len(files):05d}.parquet"
        _write_shard(path, shard, hashes)
        files.append(path)
        identities += [(document.id, digest) for document, digest in zip(shard, hashes, strict=True)]
        characters += sum(len(document.text) for document in shard)
        size += sum(len(document.text.encode()) for document in shard)
    if not files:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(dropped.items()))
        raise CorpusError(
            f"source {name}: holds no documents ({reasons or 'no rows at all'}); correct its section in the study file"
        )
    return CorpusFacts(
        rows=len(identities),
        characters=characters,
        bytes=size,
        dropped=dict(sorted(dropped.items())),
        content=_content(sorted(identities)),
        order=_content(identities),
        files=tuple(files),
    )


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


def _kept(documents: Iterable[Document | Dropped], dropped: Counter[str]) -> Iterator[Document]:
    for row in documents:
        if isinstance(row, Document):
            yield row
        else:
            dropped[row.reason] += 1


def _write_shard(path: Path, documents: list[Document], hashes: list[str]) -> None:
    columns = [
        [document.id for document in documents],
        [document.text for document in documents],
        hashes,
        [document.source for document in documents],
    ]
    with whole_file(path) as temporary:
        pq.write_table(
            pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=SCHEMA),
            temporary,
            compression="zstd",
            row_group_size=ROW_GROUP,
        )


def _content(identities: list[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for identity in identities:
        digest.update(canonical(identity).encode() + b"\n")
    return digest.hexdigest()
