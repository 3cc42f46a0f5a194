"""Hub datasets, streamed by `datasets`, and local folders of the same layout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import CorpusError, Row
from finephrase_dagster.corpora.parquet import table_rows
from finephrase_dagster.corpora.reader import Position, Reader
from finephrase_dagster.corpora.table import check_schema, top_columns
from finephrase_dagster.study.source import TableSource, Text

BATCH = 1_000  # rows in memory at once


class HubSource(TableSource):
    """A dataset on the Hugging Face hub, streamed; or a local folder of the same layout."""

    kind: Literal["hub"]
    dataset: Text
    revision: Text
    subset: Text | None = None
    split: Text = "train"
    files: tuple[Text, ...] | None = Field(
        default=None,
        min_length=1,
        description="glob patterns in the dataset; default: all of subset and split",
    )

    @property
    def label(self) -> str:
        name = f"[{self.dataset}]({self.page})" if self.page else f"`{self.dataset}`"
        subset = f", {self.subset}" if self.subset else ""
        return f"{name}{subset}, {self.split}, at `{self.revision[:10]}`"

    @property
    def page(self) -> str | None:
        return None if Path(self.dataset).is_dir() else f"https://huggingface.co/datasets/{self.dataset}"

    def identity(self, *, requirements: Path) -> dict[str, Any]:
        return {"read": self.read_fields()}

    def reader(self, *, requirements: Path) -> Reader:
        return HubReader(self)


class HubReader:
    """Reads the files of a split in order; a position is the index of a file and the number of its rows that were read.

    The library's own state of a stream is not used: a stream that resumes near the beginning of a file reads the
    complete file before it again.
    """

    def __init__(self, source: HubSource) -> None:
        """Describe the dataset; nothing is opened yet."""
        self._source = source
        self._columns = Columns(source)
        self._where = f"{source.dataset}@{source.revision}"
        self._file = self._row = 0

    @property
    def identity(self) -> str:
        """The identity of the files: a revision such as `main` may have moved since."""
        files = self._builder.config.data_files or {}
        return fingerprint([[str(split), list(urls), urls.origin_metadata] for split, urls in sorted(files.items())])

    def position(self) -> Position:
        return {"file": self._file, "row": self._row}

    def rows(self, start: Position) -> Iterator[Row]:
        self._file, self._row = start.get("file", 0), start.get("row", 0)
        stream, skipped = self._stream(), self._row
        try:
            for index in range(self._file, stream.num_shards):
                self._file, self._row = index, skipped
                number = 0
                for table in stream.shard(num_shards=stream.num_shards, index=index).iter(BATCH):
                    check_schema(table.schema, self._columns.names, self._where)
                    unread = table.slice(max(skipped - number, 0))
                    number += len(table)
                    for row in table_rows(unread, self._row + 1):
                        self._row += 1
                        yield self._columns.row(row.values or {}, self._where, row.number)
                skipped = 0
        except CorpusError:
            raise
        except Exception as error:  # a stream can break in many ways
            raise CorpusError(
                f"dataset {self._where}: broke off after row {self._row} of file {self._file + 1} "
                f"({_first_line(error)}); run again"
            ) from error

    @cached_property
    def _builder(self) -> Any:
        return self._opened(lambda: self._load())

    def _stream(self) -> Any:
        """Return the split as Arrow tables, with the needed columns only if the format can read them separately."""
        split = self._source.split
        stream = self._opened(lambda: self._builder.as_streaming_dataset(split=split))
        if stream.features is not None:
            check_schema(stream.features.arrow_schema, self._columns.names, self._where)
        if hasattr(self._builder.config, "columns") and stream.features is not None:
            # By default the library's batch size is that of the first row group, which may be empty.
            wanted = {"columns": top_columns(self._columns.names, stream.features), "batch_size": BATCH}
            stream = self._opened(lambda: self._load(**wanted).as_streaming_dataset(split=split))
        return stream.with_format("arrow")

    def _load(self, **options: Any) -> Any:
        from datasets import load_dataset_builder

        source = self._source
        if source.files is not None:
            options["data_files"] = {source.split: list(source.files)}
        return load_dataset_builder(source.dataset, source.subset, revision=source.revision, **options)

    def _opened(self, attempt: Any) -> Any:
        """Return the result of an attempt to open the dataset.

        Raises:
            CorpusError: the attempt failed; the message has the next step.
        """
        try:
            return attempt()
        except Exception as error:  # the library raises many kinds: offline, unknown name, subset or split
            source = self._source
            raise CorpusError(
                f"dataset {self._where}, subset {source.subset or 'default'}, split {source.split}: cannot be opened "
                f"({_first_line(error)}); check its name and the network, or unset HF_HUB_OFFLINE"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
