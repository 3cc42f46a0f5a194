"""Reading a benchmark's rows: our own items, a local copy of the original dataset, or the original on the hub.

Our own items are JSONL: `train.jsonl` with few-shot examples and `test.jsonl` with the items to evaluate. A local copy
has Parquet or JSONL files with the original's columns, named after their splits as on the hub
(`ARC-Easy/test-00000-of-00001.parquet`, `validation.jsonl`). The files in the folder decide which of the two it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finephrase_dagster.corpora.rows import read_rows
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.study.fields import EMBEDDED

EMBEDDED_ITEMS = Path(__file__).parent / "items"
HUB = "hub"
OWN_EXAMPLES = "train"
OWN_ITEMS = "test"


class ItemsError(FinephraseError, exit_status=2):
    """A benchmark's items are missing or wrong; the message names the place and the remedy."""


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """Where a benchmark's rows are read from.

    Attributes:
        repository: a dataset's id on the hub, or a folder.
        revision: the dataset's revision on the hub; None for a folder.
        subsets: the subsets whose mean is the score; only "" for our own items, which have none.
        few_shot_split: the split with the examples; it may be the same.
    """

    task: str
    repository: str
    revision: str | None
    subsets: tuple[str, ...]
    evaluation_split: str
    few_shot_split: str

    @property
    def is_own(self) -> bool:
        """Whether the rows are our own items, each of which must be valid."""
        return self.subsets == ("",)

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """A row's fields as they were read, and the file and line, or dataset and row, they come from."""

    fields: dict[str, Any]
    where: str


def check_items_folder(items: str, tasks: Iterable[str]) -> None:
    """Check that an `evaluation.items` that names a folder has one folder for each task.

    Raises:
        ItemsError: the folder or a task's folder is missing.
    """
    if items == HUB:
        return
    folder = items_folder(items)
    missing = [name for task in tasks if not (folder / (name := benchmarks()[task].folder)).is_dir()]
    if missing:
        raise ItemsError(
            f"evaluation.items: {folder} has no folder {', '.join(missing)}. Add the items of each task, or remove the "
            "task from 'evaluation.tasks'."
        )


def items_folder(items: str) -> Path:
    """Return the folder that an `evaluation.items` of a study file names.

    Raises:
        ItemsError: there is no such folder.
    """
    folder = EMBEDDED_ITEMS if items == EMBEDDED else Path(items)
    if not folder.is_dir():
        raise ItemsError(
            f"evaluation.items: there is no folder {items}. Write 'embedded', 'hub', or a folder (/..., ./...) with "
            f"{', '.join(benchmark.folder for benchmark in benchmarks().values())}."
        )
    return folder


def row_source(task: str, items: str) -> RowSource:
    """Return where a benchmark's rows are, given the study's `evaluation.items`.

    Raises:
        ItemsError: there is no such folder.
    """
    benchmark = benchmarks()[task]
    repository, revision = benchmark.hub, benchmark.revision if items == HUB else None
    if items != HUB:
        folder = items_folder(items) / benchmark.folder
        repository = str(folder)
        if _holds_own_items(folder):
            return RowSource(
                task=task,
                repository=repository,
                revision=None,
                subsets=("",),
                evaluation_split=OWN_ITEMS,
                few_shot_split=OWN_EXAMPLES,
            )
    return RowSource(
        task=task,
        repository=repository,
        revision=revision,
        subsets=benchmark.subsets,
        evaluation_split=benchmark.evaluation_split,
        few_shot_split=benchmark.few_shot_split or benchmark.evaluation_split,
    )


def split_rows(source: RowSource, split: str, subset: str) -> list[RawRow]:
    """Return all rows of a split of a subset.

    Raises:
        ItemsError: the split is missing, empty or unreadable.
    """
    if source.revision is not None:
        rows = _hub_rows(source, split, subset)
    else:
        rows = [row for path in _files(source, split, subset) for row in _file_rows(source.task, path)]
    if not rows:
        raise ItemsError(f"task {source.task}: {source}, split {split}, has no rows. Fetch the dataset again.")
    return rows


def _holds_own_items(folder: Path) -> bool:
    """Return whether a folder holds our own items; so does one without any rows, for the sake of the message."""
    if (folder / f"{OWN_ITEMS}.jsonl").is_file():
        return True
    return not folder.is_dir() or not any(_holds_rows(path) for path in folder.rglob("*"))


def _holds_rows(path: Path) -> bool:
    return path.suffix in (".parquet", ".jsonl") and path.is_file()


def _files(source: RowSource, split: str, subset: str) -> list[Path]:
    """Return the files of a split, whose paths contain its name."""
    folder, hub = Path(source.repository), benchmarks()[source.task].hub
    if source.is_own:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            raise ItemsError(
                f"task {source.task}: there is no file {path}. Write it, one row of {hub} per line; or copy {hub} "
                f"itself into {folder}."
            )
        return [path]
    if (folder / subset).is_dir():
        folder /= subset
    elif len(source.subsets) > 1:
        raise ItemsError(
            f"task {source.task}: {folder} has no {subset}, and the score is the mean over all {len(source.subsets)} "
            f"subsets. Copy {hub}/{subset} there."
        )
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if _holds_rows(path) and split in re.split("[^a-z]+", path.relative_to(folder).as_posix().lower())
    ]
    if not files:
        raise ItemsError(
            f"task {source.task}: {folder} has no Parquet or JSONL file of the split {split}. Copy {hub}, as it is on "
            f"the hub, into {source.repository}."
        )
    return files


def _file_rows(task: str, path: Path) -> list[RawRow]:
    try:
        rows = list(read_rows(str(path)))
    except Exception as error:  # a damaged Parquet file fails in many ways
        raise ItemsError(
            f"task {task}: {error}"
            if str(path) in str(error)
            else f"task {task}: {path} cannot be read ({error}). Copy it again."
        ) from error
    unit = "row" if path.suffix == ".parquet" else "line"
    for row in rows:
        if row.values is None:
            raise ItemsError(f"task {task}: {path}, {unit} {row.number}: {row.flaw} {row.detail}. Correct the line.")
    return [RawRow(fields=row.values or {}, where=f"{path}, {unit} {row.number}") for row in rows]


def _hub_rows(source: RowSource, split: str, subset: str) -> list[RawRow]:
    from datasets import load_dataset

    name = None if subset == "default" else subset
    try:
        dataset = load_dataset(source.repository, name, split=split, revision=source.revision)
        rows = dataset.with_format("arrow")[:].to_pylist()  # as Parquet has it, and far faster than row by row
    except Exception as error:  # offline, unknown, gated, damaged: the library raises many kinds
        reason = str(error).split("\n")[0]
        raise ItemsError(
            f"task {source.task}: dataset {source}, subset {subset}, split {split}, cannot be loaded ({reason}). Go "
            "online once (unset HF_HUB_OFFLINE), or name a folder with a copy in evaluation.items."
        ) from error
    return [
        RawRow(fields=row, where=f"{source}, {subset}, {split}, row {number}") for number, row in enumerate(rows, 1)
    ]
