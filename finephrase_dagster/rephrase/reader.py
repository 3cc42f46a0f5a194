"""The input rows: DataTrove documents of a corpus's shards, one for every row.

DataTrove's Parquet reader drops rows without text and stops at rows that are not UTF-8. This one yields
them too, with the reason why they are skipped, so that every row can be accounted for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.readers.parquet import ParquetReader

from finephrase_dagster.study.fingerprint import sha256_text

SHARDS = "shard-*.parquet"
COLUMNS = ("id", "text", "sha256")


class CorpusUnreadable(ValueError):
    """A corpus folder has no shards, or a shard lacks a column or an id."""


class DuplicateId(ValueError):
    """Two rows of a corpus have the same id."""


def shards_of(corpus: Path) -> list[Path]:
    """The shards of a corpus, in order, each with the columns id, text and sha256.

    Raises:
        CorpusUnreadable: there is none, or one is not such a Parquet file.
    """
    shards = sorted(corpus.glob(SHARDS))
    if not shards:
        raise CorpusUnreadable(f"{corpus}: holds no {SHARDS}; materialise the source first")
    for shard in shards:
        try:
            names = pq.read_schema(shard).names
        except (OSError, pa.ArrowException) as error:
            raise CorpusUnreadable(f"{shard}: not a Parquet file ({error}); write the corpus again") from error
        if missing := [column for column in COLUMNS if column not in names]:
            raise CorpusUnreadable(f"{shard}: has no column {missing[0]!r}; write the corpus again")
    return shards


def check_ids(shards: list[Path]) -> None:
    """Checks that every row has an id of its own, in bounded memory.

    Raises:
        CorpusUnreadable: naming file and row of a missing id.
        DuplicateId: naming one id that stands more than once.
    """
    with duckdb.connect(config={"memory_limit": "1GB", "threads": 1}) as database:
        source = "FROM read_parquet($shards, filename = true, file_row_number = true)"
        files = {"shards": [str(shard) for shard in shards]}
        missing = database.execute(
            f"SELECT filename, file_row_number {source} WHERE id IS NULL OR id::VARCHAR = '' LIMIT 1", files
        ).fetchone()
        if missing:
            raise CorpusUnreadable(f"{missing[0]}: row {missing[1]} has no id; give every row an id of its own")
        twice = database.execute(
            f"SELECT id, count(*) {source} GROUP BY id HAVING count(*) > 1 LIMIT 1", files
        ).fetchone()
        if twice:
            raise DuplicateId(
                f"{shards[0].parent}: the id {twice[0]!r} stands {twice[1]} times; give every row an id of its own"
            )


class CorpusReader(ParquetReader):
    """Yields a document for every row of a shard, in order.

    `metadata` holds `row` (its place in the shard), `sha256` and `skip`: None, or why it has no text.
    """

    name = "Corpus"

    def __init__(self, corpus: Path) -> None:
        super().__init__(str(corpus), glob_pattern=SHARDS, recursive=False)

    def read_file(self, filepath: str) -> Iterator[Document]:
        row = 0
        with self.data_folder.open(filepath, "rb") as file, pq.ParquetFile(file) as shard:
            for batch in shard.iter_batches(self.batch_size, columns=list(COLUMNS)):
                # As bytes, since one row that is not UTF-8 would otherwise stop the whole batch.
                texts = batch.column("text").cast(pa.binary()).to_pylist()
                ids = batch.column("id").to_pylist()
                hashes = batch.column("sha256").to_pylist()
                for name, raw, digest in zip(ids, texts, hashes, strict=True):
                    text, skip = _decoded(raw)
                    metadata = {"row": row, "skip": skip, "sha256": digest or sha256_text(text)}
                    yield Document(text=text, id=str(name), metadata=metadata)
                    row += 1


def _decoded(raw: bytes | None) -> tuple[str, str | None]:
    if raw is None:
        return "", "text is missing"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return "", f"text is not UTF-8 (byte {error.start})"
    return text, None if text.strip() else "text is empty"
