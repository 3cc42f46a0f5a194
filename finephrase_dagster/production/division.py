"""The shards of a dataset: which rows workers may lease."""

from __future__ import annotations

import json

from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.leases import SHARDS, RowShard, forget_leases
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.ledger import Ledger
from finephrase_dagster.rephrase.survey import Survey


class OrderChanged(FinephraseError, exit_status=2):
    """The order of the input rows has changed since rows were finished, so that they are known by their ids only."""


def read_shards(folder: Folder, layout: str) -> list[RowShard] | None:
    """Return the shards of a dataset; None if they were not laid out for this order of the input rows."""
    try:
        content = json.loads(folder.read(SHARDS))
    except FileNotFoundError:
        return None
    return [RowShard(*shard) for shard in content["shards"]] if content["layout"] == layout else None


def lay_out(dataset: Dataset, survey: Survey, *, prompt: str, rows: int) -> None:
    """Divide the rows that are not done into shards of at most so many rows, unless that was done before.

    Journals that a killed run left become files first.

    Raises:
        FolderBusy: another process writes the dataset.
        OrderChanged: see there.
        RecipeChanged, LedgerError: see `Dataset.manifest` and `Ledger`.
    """
    if dataset.manifest() or read_shards(dataset.folder, survey.layout) is not None:
        return
    with dataset.folder.claim():
        dataset.begin()
        forget_leases(dataset.folder)
        survey.save(dataset.folder)
        ledger = Ledger(
            dataset.folder,
            prompt,
            chunk_rows=rows,
            keep_raw=dataset.keeps_raw,
            has_rollouts=dataset.has_rollouts,
            layout=survey.layout,
        )
        ledger.publish_left_over()
        missing = ledger.missing([file.rows for file in survey.surveyed])
        if missing is None:
            raise OrderChanged(
                f"{dataset.folder}: the order of the input rows, or their division into files, has changed since the "
                "first rows were finished. Restore it, or finish this dataset without --workers."
            )
        shards = [
            RowShard(file, first, min(first + rows, stop))
            for file, start, stop in missing
            for first in range(start, stop, rows)
        ]
        dataset.folder.write(SHARDS, json.dumps({"layout": survey.layout, "shards": shards}).encode())
