"""Files: Parquet, JSONL and WARC files, on this machine or in an object store, read one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import Dropped, Row
from finephrase_dagster.corpora.inputs import WARC, described, input_files
from finephrase_dagster.corpora.reader import Position, Reader
from finephrase_dagster.corpora.rows import open_file, read_rows
from finephrase_dagster.corpora.table import check_values
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
    """Reads the files in sorted order; a position is the index of a file and the number of its rows that were read."""

    def __init__(self, source: FilesSource) -> None:
        """Look up the files.

        Raises:
            StudyError: there are none, or one has an unknown format.
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
        first, skipped = start.get("file", 0), start.get("row", 0)
        for index, file in enumerate(self._files[first:], first):
            self._file, self._row = index, skipped
            for row in _read_file(file.url, self._columns, skipped):
                self._row += 1
                yield row
            skipped = 0


def _read_file(url: str, columns: Columns, start: int) -> Iterator[Row]:
    """Yield the rows of a file after the first `start` ones.

    Raises:
        CorpusError: the file cannot be read, lacks a column, or has a row with text but without an id.
    """
    if url.endswith(WARC):
        with open_file(url) as file:
            yield from warc_rows(file, columns, url, start)
        return
    is_checked = start > 0 or url.endswith(".parquet")
    for row in read_rows(url, columns=columns.names, id_column=columns.id_column, start=start):
        if row.values is None:
            yield Dropped(source=url, reason=row.flaw)
            continue
        if not is_checked:
            check_values(row.values, columns.names, url)
            is_checked = True
        yield columns.row(row.values, url, row.number)
