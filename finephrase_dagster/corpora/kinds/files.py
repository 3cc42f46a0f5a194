"""The rows of Parquet, JSONL and WARC files, on this machine or in an object store, file after file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
from pydantic import Field

from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import CorpusError, Row
from finephrase_dagster.corpora.inputs import JSONL, described, input_files
from finephrase_dagster.corpora.jsonl import jsonl_rows
from finephrase_dagster.corpora.parquet import parquet_rows
from finephrase_dagster.corpora.reader import Position, Reader
from finephrase_dagster.corpora.warc import warc_rows
from finephrase_dagster.study.source import TableSource, Text


class FilesSource(TableSource):
    """Parquet, JSONL (plain, .gz, .zst) or WARC (.warc, .wet, .gz) files, here or in an object store."""

    kind: Literal["files"]
    paths: tuple[Text, ...] = Field(min_length=1, description="files, folders or glob patterns; paths or s3://... URLs")

    @property
    def label(self) -> str:
        return ", ".join(f"`{path}`" for path in self.paths)

    def identity(self, *, requirements: Path) -> dict[str, Any]:
        return {"read": self.read_fields(), "files": described(input_files(self.paths))}

    def reader(self, *, requirements: Path) -> Reader:
        return FilesReader(self)


class FilesReader:
    """The files of a source, sorted; a position is a file's place among them and the rows of it that were read."""

    def __init__(self, source: FilesSource) -> None:
        """Looks up the files.

        Raises:
            StudyError: there are none, or not all are of a known format.
        """
        self._files = input_files(source.paths)
        self._columns = Columns(source)
        self._file = self._row = 0

    @property
    def identity(self) -> str:
        return fingerprint(self._files)

    def position(self) -> Position:
        return {"file": self._file, "row": self._row}

    def rows(self, start: Position) -> Iterator[Row]:
        first, behind = start.get("file", 0), start.get("row", 0)
        for place, file in enumerate(self._files[first:], first):
            self._file, self._row = place, behind
            for row in _rows_of(file.url, self._columns, behind):
                self._row += 1
                yield row
            behind = 0


def _rows_of(url: str, columns: Columns, start: int) -> Iterator[Row]:
    read: Callable[[BinaryIO, Columns, str, int], Iterator[Row]] = warc_rows
    if url.endswith(".parquet"):
        read = parquet_rows
    elif url.endswith(JSONL):
        read = jsonl_rows
    try:
        with _opened(url) as file:
            yield from read(file, columns, url, start)
    except CorpusError:
        raise
    except (pa.ArrowException, EOFError, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{url}: cannot be read ({error}); replace the file") from error
    except Exception as error:  # each store's library has errors of its own
        if "://" not in url:
            raise
        raise CorpusError(
            f"{url}: cannot be read ({error}); see that the store answers and lets you in, and run again"
        ) from error


@contextlib.contextmanager
def _opened(url: str) -> Iterator[BinaryIO]:
    if "://" in url:
        import fsspec

        with fsspec.open(url, "rb") as opened:
            yield opened
    else:
        with Path(url).open("rb") as opened:
            yield opened
