"""Parquet and JSONL files of hub datasets, streamed, and of local folders of the same layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.reader import FilesReader, Reader
from finephrase_dagster.study.source import TableSource, Text


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
        return HubFiles(self)


class HubFiles(FilesReader):
    """Reads the files of a split in order.

    `datasets` finds the files, and ours read them: its own readers guess the types of columns, so that one odd row
    changes the ids and texts of a file.
    """

    def __init__(self, source: HubSource) -> None:
        """Describe the dataset; nothing is opened yet."""
        self._where = f"{source.dataset}@{source.revision}"
        super().__init__(Columns(source), self._where)
        self._wanted = source

    @property
    def identity(self) -> str:
        """The identity of the files: a revision such as `main` may have moved since."""
        splits = sorted(self._splits.items())
        return fingerprint([[str(split), list(urls), urls.origin_metadata] for split, urls in splits])

    def urls(self) -> list[str]:
        files = self._splits.get(self._wanted.split)
        if files is None:
            raise self._error(f"its splits are {', '.join(map(str, self._splits)) or 'none'}")
        return list(files)

    @cached_property
    def _splits(self) -> Mapping[Any, Any]:
        """The files of the subset, by split.

        Raises:
            CorpusError: the dataset cannot be opened; the message has the next step.
        """
        from datasets import load_dataset_builder

        source = self._wanted
        options = {"data_files": {source.split: list(source.files)}} if source.files is not None else {}
        try:
            builder = load_dataset_builder(source.dataset, source.subset, revision=source.revision, **options)
        except Exception as error:  # the library raises many kinds: offline, unknown name, subset or file
            flaw = str(error).splitlines()[0] if str(error) else type(error).__name__
            if isinstance(error, TypeError):  # datasets reads YAML 1.1
                flaw += "; a name such as no or 010 in its README.md may not be a text: put it in quotes there"
            raise self._error(flaw) from error
        files: Mapping[Any, Any] = builder.config.data_files or {}
        return files

    def _error(self, flaw: str) -> CorpusError:
        return CorpusError(
            f"dataset {self._where}, subset {self._wanted.subset or 'default'}, split {self._wanted.split}: cannot be "
            f"opened ({flaw}); check its name, subset, split and files, and the network, or unset HF_HUB_OFFLINE"
        )
