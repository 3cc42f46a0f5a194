"""Datasets written by several tasks, as DataTrove's executors run them on Slurm, on Ray or in processes.

Each task writes its part of each dataset in a folder of its own, exactly like a complete dataset: with its own journal,
lock and manifest, so that a task that was killed resumes. `merge_tasks` merges the parts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.rephrase.account import Account, load_account, read_expected
from finephrase_dagster.rephrase.dataset import (
    REJECTED,
    Dataset,
    LedgerError,
    NothingCompleted,
    RowCounts,
    is_without_completions,
    read_parquet,
    write_manifest,
)
from finephrase_dagster.rephrase.outcome import total_discarded
from finephrase_dagster.rephrase.survey import RowSet, Survey

TASKS = f"{META}/tasks"
COUNTS = ("rows_in", "completed", "prompt_tokens", "completion_tokens", "documents_cut")


def task_dataset(dataset: Dataset, rank: int, tasks: int) -> Dataset:
    """Return the part of a dataset that one of several tasks writes."""
    return dataclasses.replace(
        dataset,
        folder=dataset.folder.below(f"{TASKS}/{rank:05d}"),
        recipe={**dataset.recipe, "task": rank, "tasks": tasks},
    )


def merge_tasks(datasets: Mapping[str, Dataset], *, survey: Survey, tasks: int) -> dict[str, dict[str, Any]]:
    """Merge the parts of all tasks into complete datasets; leave complete datasets alone.

    Args:
        datasets: as the tasks got them.
        survey: the survey of the complete input.
        tasks: the number of tasks.

    Returns:
        The manifest of each dataset, by prompt name.

    Raises:
        LedgerError: a task is not finished, or the parts do not cover the input.
        RecipeChanged: a part was written with another recipe, or for another number of tasks.
        NothingCompleted: rows failed, and no row of any dataset has a completion.
    """
    with contextlib.ExitStack() as claims:
        for dataset in datasets.values():
            claims.enter_context(dataset.folder.claim())
        manifests = {name: dataset.manifest() for name, dataset in datasets.items()}
        parts = {
            name: [task_dataset(datasets[name], rank, tasks) for rank in range(tasks)]
            for name, manifest in manifests.items()
            if manifest is None
        }
        counts = {name: _counts(some) for name, some in parts.items()}
        if is_without_completions(counts.values()):
            for part in chain.from_iterable(parts.values()):
                part.folder.clear()
            raise NothingCompleted.of(counts.values())
        merged = {name: _merge(datasets[name], counts[name], some, survey) for name, some in parts.items()}
    return {name: manifest or merged[name] for name, manifest in manifests.items()}


def _counts(parts: Sequence[Dataset]) -> RowCounts:
    """Return the counts of all parts together."""
    counts = RowCounts(rows_in=0)
    for part in parts:
        manifest = _manifest(part)
        counts.files += manifest["files"]
        for name in COUNTS:
            setattr(counts, name, getattr(counts, name) + manifest[name])
        counts.cleaned.update(manifest["cleaned"])
        counts.discarded = total_discarded([counts.discarded, list(manifest["discarded"].values())])
        rejected = _rejected(part)
        counts.rejected += Counter(zip(rejected["status"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    return counts


def _merge(dataset: Dataset, counts: RowCounts, parts: Sequence[Dataset], survey: Survey) -> dict[str, Any]:
    manifests = [_manifest(part) for part in parts]
    total = sum(int(manifest["row_sum"], 16) for manifest in manifests) % 2**256
    rows = RowSet(counts.rows_in, total)
    if rows.digest != survey.digest:
        raise LedgerError(
            f"{dataset.folder}: the {len(parts)} tasks read {rows.rows} rows, which are not the {survey.rows} rows of "
            f"the input. Give the tasks the surveyed files, delete {TASKS} and run the tasks again."
        )
    dataset.begin()
    for part, manifest in zip(parts, manifests, strict=True):
        for file in manifest["files"]:
            dataset.folder.take(part.folder, file["path"])
    account = sum((load_account(part.folder, part.fingerprint) for part in parts), Account())
    facts = {"run": _total_cost(manifests), "goodput": account.facts(read_expected(dataset.folder))}
    merged = write_manifest(dataset, counts, map(_rejected, parts), facts)
    for part in parts:
        part.folder.clear()
    return merged


def _rejected(part: Dataset) -> pa.Table:
    return read_parquet(part.folder.read(REJECTED))


def _manifest(part: Dataset) -> dict[str, Any]:
    manifest = part.manifest()
    if manifest is None:
        raise LedgerError(
            f"{part.folder}: this task is not finished. Run the tasks again; finished tasks send nothing."
        )
    return manifest


def _total_cost(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of all tasks' costs and throughput."""
    costs = [manifest["run"] for manifest in manifests]
    added = ("requests", "repeated_requests", "engine_restarts", "engine_seconds", "completion_tokens", "prompt_tokens")
    total: dict[str, Any] = {"tasks": len(costs), **{name: sum(cost[name] for cost in costs) for name in added}}
    total["tokens_per_second"] = round(sum(cost["tokens_per_second"] for cost in costs), 1)
    return total
