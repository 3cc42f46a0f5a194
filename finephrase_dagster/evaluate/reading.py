"""Where a task's rows come from: our own items, a local copy of the original dataset, or the hub.

Our own items are JSONL, `train.jsonl` for few-shot examples and `test.jsonl` for evaluation. A local
copy has Parquet or JSONL files with the original's columns, named by their splits as on the hub
(`ARC-Easy/test-00000-of-00001.parquet`, `validation.jsonl`). What is there decides.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.benchmarks import BENCHMARKS
from finephrase_dagster.study.fields import EMBEDDED

EMBEDDED_ITEMS = Path(__file__).parent / "items"
HUB = "hub"
OWN_EXAMPLES = "train"
OWN_ITEMS = "test"


class ItemsError(FinephraseError, exit_status=2):
    """A task's items are missing or wrong; the message names the place and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a task's rows are.

    Attributes:
        task: whose they are.
        repository: a dataset's id on the hub, or a folder.
        revision: that of the dataset; None: a folder.
        subsets: what the task's score is the mean of; "" for our own items, which have none.
        evaluation_split: the split that is evaluated.
        few_shot_split: the split that examples come from; it may be the same.
    """

    task: str
    repository: str
    revision: str | None
    subsets: tuple[str, ...]
    evaluation_split: str
    few_shot_split: str

    @property
    def own(self) -> bool:
        """Whether the rows are our own items, every one of which must be right."""
        return self.subsets == ("",)

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row as it was read, and where it stood."""

    row: dict[str, Any]
    where: str


def items_folder(items: str) -> Path:
    """The folder that an `evaluation.items` of a study file means.

    Raises:
        ItemsError: neither `embedded` nor a folder that is there.
    """
    folder = EMBEDDED_ITEMS if items == EMBEDDED else Path(items)
    if not folder.is_dir():
        raise ItemsError(
            f"evaluation.items: {items} is not a folder; write 'embedded', 'hub', or a folder (/..., ./...) "
            f"with {', '.join(benchmark.folder for benchmark in BENCHMARKS.values())}"
        )
    return folder


def place(task: str, items: str) -> Place:
    """Where a task's rows are, for an `evaluation.items` of `embedded`, `hub` or a folder.

    Raises:
        ItemsError: there is no such folder.
    """
    benchmark = BENCHMARKS[task]
    if items == HUB:
        repository, revision = benchmark.hub, benchmark.revision
    else:
        folder = items_folder(items) / benchmark.folder
        if _is_own(folder):
            return Place(
                task=task,
                repository=str(folder),
                revision=None,
                subsets=("",),
                evaluation_split=OWN_ITEMS,
                few_shot_split=OWN_EXAMPLES,
            )
        repository, revision = str(folder), None
    return Place(
        task=task,
        repository=repository,
        revision=revision,
        subsets=benchmark.subsets,
        evaluation_split=benchmark.evaluation_split,
        few_shot_split=benchmark.few_shot_split or benchmark.evaluation_split,
    )


def read_lines(place: Place, split: str, subset: str) -> list[Line]:
    """All rows of a split.

    Raises:
        ItemsError: it is missing, empty or unreadable.
    """
    if place.revision is not None:
        lines = _hub_lines(place, split, subset)
    else:
        lines = [line for path in _files(place, split, subset) for line in _file_lines(place.task, path)]
    if not lines:
        raise ItemsError(f"task {place.task}: {place}, split {split}: there is no row; fetch the dataset again")
    return lines


def _is_own(folder: Path) -> bool:
    """Our items stand in two files; a folder without any rows is taken for ours, too, and found wanting."""
    if (folder / f"{OWN_ITEMS}.jsonl").is_file():
        return True
    return not folder.is_dir() or not any(_holds_rows(path) for path in folder.rglob("*"))


def _holds_rows(path: Path) -> bool:
    return path.suffix in (".parquet", ".jsonl") and path.is_file()


def _files(place: Place, split: str, subset: str) -> list[Path]:
    """The files of a split, whose path names it."""
    folder = Path(place.repository)
    if place.own:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            hub = BENCHMARKS[place.task].hub
            raise ItemsError(
                f"task {place.task}: {path} is not there; it holds the items, one row of {hub} a line. A copy of "
                f"{hub} itself would do, too"
            )
        return [path]
    if (folder / subset).is_dir():
        folder /= subset
    elif len(place.subsets) > 1:
        raise ItemsError(
            f"task {place.task}: {folder} has no {subset}; the score is the mean over {len(place.subsets)} such "
            "folders: copy it, too"
        )
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if _holds_rows(path) and split in re.split("[^a-z]+", path.relative_to(folder).as_posix().lower())
    ]
    if not files:
        raise ItemsError(
            f"task {place.task}: {folder} has no Parquet or JSONL file of the split {split}; copy "
            f"{BENCHMARKS[place.task].hub}, as it is on the hub, into {place.repository}"
        )
    return files


def _file_lines(task: str, path: Path) -> list[Line]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(path).to_pylist()
            return [Line(row=row, where=f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
        text = path.read_text(encoding="utf-8")
    except Exception as error:  # a damaged Parquet file fails in many ways
        raise ItemsError(f"task {task}: {path} cannot be read ({error}); copy it again") from error
    # Not splitlines(): a JSON string may hold line separators other than a newline.
    lines = text.removesuffix("\n").split("\n") if text else []
    return [_json_line(task, line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _json_line(task: str, line: str, where: str) -> Line:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ItemsError(f"task {task}: {where}: Invalid JSON: {error}; correct the line") from error
    if not isinstance(row, dict):
        raise ItemsError(f"task {task}: {where}: is no JSON object; write one item a line, with its columns as names")
    return Line(row=row, where=where)


def _hub_lines(place: Place, split: str, subset: str) -> list[Line]:
    from datasets import load_dataset

    name = None if subset == "default" else subset
    try:
        dataset = load_dataset(place.repository, name, split=split, revision=place.revision)
        rows = dataset.with_format("arrow")[:].to_pylist()  # as Parquet has it, and far faster than row by row
    except Exception as error:  # offline, unknown, gated, damaged: the library raises many kinds
        reason = str(error).split("\n")[0]
        raise ItemsError(
            f"task {place.task}: dataset {place}, subset {subset}, split {split}: cannot be loaded ({reason}); go "
            "online once (unset HF_HUB_OFFLINE), or name a folder with a copy in evaluation.items"
        ) from error
    return [Line(row=row, where=f"{place}, {subset}, {split}, row {number}") for number, row in enumerate(rows, 1)]
