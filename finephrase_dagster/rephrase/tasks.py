"""Datasets made by several tasks, as DataTrove's executors run them on Slurm, on Ray or in processes.

Each task makes its part of each dataset in a folder of its own, exactly as a whole one: with its own journal,
lock and manifest, so that a task that is killed goes on where it was. `gather` puts the parts together.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from finephrase_dagster.artifacts.artifact import META
from finephrase_dagster.rephrase.dataset import REJECTED, Account, Dataset, LedgerError, read_parquet, write_manifest
from finephrase_dagster.rephrase.survey import RowSet, Survey

TASKS = f"{META}/tasks"
COUNTS = ("completed", "prompt_tokens", "completion_tokens", "documents_cut")


def task_of(dataset: Dataset, rank: int, tasks: int) -> Dataset:
    """The part of a dataset that one of so many tasks makes."""
    return dataclasses.replace(
        dataset,
        folder=dataset.folder.below(f"{TASKS}/{rank:05d}"),
        recipe={**dataset.recipe, "task": rank, "tasks": tasks},
    )


def gather(datasets: Mapping[str, Dataset], *, survey: Survey, tasks: int) -> dict[str, dict[str, Any]]:
    """Makes whole datasets of the parts of all tasks; does nothing for those that are whole.

    Args:
        datasets: as the tasks got them.
        survey: of the whole input.
        tasks: how many there were.

    Returns:
        The manifest of each dataset, by prompt name.

    Raises:
        LedgerError: a task is not done, or the parts do not make up the input.
        RecipeChanged: a part was made by another recipe, or by another number of tasks.
    """
    manifests = {}
    for name, dataset in datasets.items():
        with dataset.folder.claim():
            manifests[name] = dataset.manifest() or _gathered(dataset, survey, tasks)
    return manifests


def _gathered(dataset: Dataset, survey: Survey, tasks: int) -> dict[str, Any]:
    parts = [task_of(dataset, rank, tasks) for rank in range(tasks)]
    manifests = [_manifest(part) for part in parts]
    total = sum(int(manifest["row_sum"], 16) for manifest in manifests) % 2**256
    rows = RowSet(sum(manifest["rows_in"] for manifest in manifests), total)
    if rows.digest != survey.digest:
        raise LedgerError(
            f"{dataset.folder}: its {tasks} tasks read {rows.rows} rows that are not the {survey.rows} of the input; "
            f"give the tasks the files that were surveyed, delete {TASKS} and run them again"
        )
    dataset.begin()
    account = Account(rows_in=rows.rows)
    tables = []
    for part, manifest in zip(parts, manifests, strict=True):
        for file in manifest["files"]:
            dataset.folder.take(part.folder, file["path"])
        account.files += manifest["files"]
        for count in COUNTS:
            setattr(account, count, getattr(account, count) + manifest[count])
        rejected = read_parquet(part.folder.read(REJECTED))
        account.rejected += Counter(zip(rejected["status"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
        tables.append(rejected)
    runs = _runs(manifests)
    manifest = write_manifest(dataset, account, pa.concat_tables(tables), {"run": runs})
    for part in parts:
        part.folder.clear()
    return manifest


def _manifest(part: Dataset) -> dict[str, Any]:
    manifest = part.manifest()
    if manifest is None:
        raise LedgerError(
            f"{part.folder}: this task is not done; run the tasks again, the ones that are done do nothing"
        )
    return manifest


def _runs(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The bills of all tasks in one: their work added up."""
    bills = [manifest["run"] for manifest in manifests]
    added = ("requests", "repeated_requests", "engine_restarts", "engine_seconds", "completion_tokens", "prompt_tokens")
    whole: dict[str, Any] = {"tasks": len(bills), **{name: sum(bill[name] for bill in bills) for name in added}}
    whole["tokens_per_second"] = round(sum(bill["tokens_per_second"] for bill in bills), 1)
    return whole
