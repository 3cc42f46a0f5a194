"""Rows of local files and of hub datasets as documents, every row kept or accounted for.

DataTrove's Parquet reader and `datasets` bring the rows; what becomes of a row is decided here, since
DataTrove leaves out empty ones without counting them. JSONL is read line by line here: its reader there
also gives up a file at the first bad byte and reads a .zst file no further than its first frame.
"""

from __future__ import annotations

import glob
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.pipeline.readers import ParquetReader

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped, text_flaw

JSONL_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold text and id; without an id column the id is a hash of the text."""

    text: str
    id: str | None

    def check(self, present: Iterable[str], where: str) -> None:
        """Refuses a table that lacks a column.

        Raises:
            CorpusError: naming the table, the missing column and the columns there are.
        """
        present = list(present)
        for column in filter(None, (self.text, self.id)):
            if column not in present:
                raise CorpusError(f"{where}: no column {column!r}; there are {', '.join(sorted(present)) or 'none'}")

    def row(self, values: Mapping[str, Any], where: str, number: int) -> Document | Dropped:
        """One row as a document, or the reason why it is none.

        Raises:
            CorpusError: the row has text but no id.
        """
        text = values.get(self.text)
        reason = text_flaw(text)
        if reason is not None or not isinstance(text, str):
            return Dropped(source=where, reason=reason or "no text")
        if self.id is None:
            return Document(id=hashlib.sha256(text.encode()).hexdigest()[:32], text=text, source=where)
        found = values.get(self.id)
        if found is None or not str(found).strip():
            raise CorpusError(f"{where}, row {number}: no id in column {self.id!r}; give every row one")
        return Document(id=str(found), text=text, source=where)


class _ParquetRows(ParquetReader):
    """DataTrove's Parquet reader with our rows in place of its documents."""

    def __init__(self, folder: Path, columns: Columns) -> None:
        super().__init__(str(folder), text_key=columns.text, id_key=columns.id or columns.text, read_metadata=False)
        self.columns = columns

    def get_document_from_dict(self, data: dict, source_file: str, id_in_file: int) -> Document | Dropped:
        return self.columns.row(data, str(Path(self.data_folder.path) / source_file), id_in_file + 1)


def _jsonl_rows(path: Path, columns: Columns) -> Iterator[Document | Dropped]:
    """The lines of a file, as bytes, so that a bad byte costs its own line alone."""
    where, first = str(path), True
    # Arrow reads a compressed file to its end, all frames of it, and says when it was cut off.
    with io.BufferedReader(pa.input_stream(path)) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                yield Dropped(source=where, reason="blank line")
                continue
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError:
                yield Dropped(source=where, reason="not valid JSON")
                continue
            if not isinstance(values, dict):
                yield Dropped(source=where, reason="not a JSON object")
                continue
            if first:
                columns.check(values, where)
                first = False
            yield columns.row(values, where, number)


def find_files(patterns: Iterable[str]) -> list[Path]:
    """The files that paths and glob patterns name, each once, in the order of the patterns.

    Raises:
        CorpusError: a pattern names no file, or a file that is neither Parquet nor JSONL.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        # Path.glob takes no absolute patterns.
        matches = [pattern] if path.is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            raise CorpusError(f"{pattern}: no such file; correct the path")
        for file in files:
            if not file.name.endswith((".parquet", *JSONL_ENDINGS)):
                raise CorpusError(f"{file}: neither .parquet nor {', '.join(JSONL_ENDINGS)}; convert it to one")
            found.setdefault(file)
    return list(found)


def read_files(patterns: Iterable[str], *, columns: Columns) -> Iterator[Document | Dropped]:
    """The rows of local Parquet and JSONL (plain, .gz, .zst) files, in order.

    Raises:
        CorpusError: no such file, another format, an unreadable file, or a missing column or id.
    """
    for path in find_files(patterns):
        try:
            if path.name.endswith(".parquet"):
                columns.check(pq.read_schema(path).names, str(path))
                yield from _ParquetRows(path.parent, columns).read_file(path.name)
            else:
                yield from _jsonl_rows(path, columns)
        except (pa.ArrowException, EOFError, OSError) as error:
            raise CorpusError(f"{path}: cannot be read ({error}); replace the file") from error


def read_hub(
    dataset: str, *, revision: str, subset: str | None, split: str, columns: Columns
) -> Iterator[Document | Dropped]:
    """The rows of a hub dataset (or a local folder that holds one), streamed.

    Raises:
        CorpusError: the dataset cannot be opened, or lacks a column or an id.
    """
    from datasets import load_dataset

    where = f"{dataset}@{revision}"
    try:
        rows = load_dataset(dataset, subset, revision=revision, split=split, streaming=True)
    except Exception as error:  # the library raises many kinds: offline, unknown name, subset or split
        raise CorpusError(
            f"dataset {where}, subset {subset or 'default'}, split {split}: cannot be opened "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            "check its name and the network, or unset HF_HUB_OFFLINE"
        ) from error
    number = 0
    try:
        for number, values in enumerate(rows, 1):
            if number == 1:
                columns.check(values, where)
            yield columns.row(values, where, number)
    except CorpusError:
        raise
    except Exception as error:  # the stream broke off, in one of as many ways
        raise CorpusError(f"dataset {where}: broke off after row {number} ({error}); run again") from error
