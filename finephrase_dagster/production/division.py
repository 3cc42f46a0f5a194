"""The shards of a dataset: which rows workers may lease."""

from __future__ import annotations

import json
import sys
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.lease import RowShard, shard_division
from finephrase_dagster.artifacts.leases import SHARDS
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.ledger import begin_ledger
from finephrase_dagster.rephrase.outcome import Completed, journal_header, journal_line
from finephrase_dagster.rephrase.survey import Survey
from finephrase_dagster.rephrase.takeover import must_look, record_looked, reusable

REUSED = "-reused"
"""The end of the name of a journal with completions of earlier datasets."""


class OrderChanged(FinephraseError, exit_status=2):
    """The order of the input rows has changed since rows were finished, so that they are known by their ids only."""


def read_shards(folder: Folder, layout: str) -> list[RowShard] | None:
    """Return the shards of a dataset; None if they were not laid out for this order of the input rows."""
    try:
        content = json.loads(folder.read(SHARDS))
    except FileNotFoundError:
        return None
    return [RowShard(*shard) for shard in content["shards"]] if content["layout"] == layout else None


def lay_out(
    dataset: Dataset, survey: Survey, *, prompt: str, rows: int, log: Callable[[str], None] = lambda line: None
) -> None:
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
        if dataset.manifest() or read_shards(dataset.folder, survey.layout) is not None:  # another worker was faster
            return
        looks = must_look(dataset)
        for journal in dataset.folder.journals() if looks else ():
            if journal.endswith(REUSED):  # copies that a killed run began to make
                dataset.folder.journal(journal).remove()
        ledger = begin_ledger(dataset, survey, prompt=prompt, chunk_rows=rows)
        ledger.publish_left_over()
        missing = ledger.missing([file.rows for file in survey.surveyed])
        if missing is None:
            raise OrderChanged(
                f"{dataset.folder}: the order of the input rows, or their division into files, has changed since the "
                "first rows were finished. Restore it, or finish this dataset without --workers."
            )
        division = 1 + max((shard_division(name) for name in ledger.chunk_names()), default=-1)
        shards = [
            RowShard(file, first, min(first + rows, stop), division)
            for file, start, stop in missing
            for first in range(start, stop, rows)
        ]
        if looks and shards:
            _reuse(dataset, survey, shards, log)
        dataset.folder.write(SHARDS, json.dumps({"layout": survey.layout, "shards": shards}).encode())
        if looks:
            record_looked(dataset)


def _reuse(dataset: Dataset, survey: Survey, shards: Sequence[RowShard], log: Callable[[str], None]) -> None:
    """Write completions of earlier datasets into journals of the shards, as if a worker had held them before.

    So a shard stays as large as it is, and its holder sends only the rows that its journals do not have.
    """

    def found() -> Iterator[tuple[str, int, Completed]]:
        for file, row, completed in reusable(dataset, survey, log):
            shard = shards[bisect(shards, (file, row, sys.maxsize)) - 1]
            if shard.file == file and shard.start <= row < shard.stop:  # else it is done
                yield shard.name + REUSED, row, completed

    for name, rows in groupby(found(), key=itemgetter(0)):
        journal = dataset.folder.journal(name)
        journal.append(journal_header(survey.layout))
        for _, row, completed in rows:
            journal.append(journal_line(row, completed))
        journal.close()
    for name in dataset.folder.journals():
        if name.endswith(REUSED):
            journal = dataset.folder.journal(name)
            journal.sync()  # from here on its records survive a power failure
            journal.close()
