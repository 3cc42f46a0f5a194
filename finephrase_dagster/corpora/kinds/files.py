"""Files: Parquet, JSONL and WARC files, on this machine or in an object store, read one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.inputs import described, input_files
from finephrase_dagster.corpora.reader import FilesReader, Reader
from finephrase_dagster.study.source import TableSource, Text


class FilesSource(TableSource):
    """Parquet, JSONL (plain, .gz, .zst) or WARC (.warc, .wet, .gz) files, here or in an object store."""

    kind: Literal["files"]
    paths: tuple[Text, ...] = Field(
        min_length=1,
        description="files, folders or glob patterns; paths or s3://... URLs",
        examples=[["texts/*.jsonl"]],
    )

    @property
    def label(self) -> str:
        return ", ".join(f"`{path}`" for path in self.paths)

    def identity(self, *, requirements: Path) -> dict[str, Any]:
        return {"read": self.read_fields(), "files": described(input_files(self.paths))}

    def reader(self, *, requirements: Path) -> Reader:
        return ListedFiles(self)


class ListedFiles(FilesReader):
    """Reads the files in sorted order."""

    def __init__(self, source: FilesSource) -> None:
        """Look up the files.

        Raises:
            StudyError: there are none, or one has an unknown format.
        """
        super().__init__(Columns(source))
        self._files = input_files(source.paths)

    @property
    def identity(self) -> str:
        return fingerprint(self._files)

    def urls(self) -> list[str]:
        return [file.url for file in self._files]
