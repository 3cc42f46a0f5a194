"""Takes over completions of earlier datasets for rows whose requests would be the same.

A row is recognized by its id and the hash of its document; everything else that a request consists of is in the recipe,
which is the same (`artifacts.earlier`). DuckDB joins the input with the earlier datasets by these hashes, on disk where
they exceed its memory; then each file of an earlier dataset is read once. Completions that were cut off are not reused,
and neither are skipped and failed rows.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.fingerprint import sha256_text
from finephrase_dagster.artifacts.verification import ArtifactDamaged
from finephrase_dagster.corpora.eligibility import not_eligible
from finephrase_dagster.rephrase.dataset import Dataset, DatasetMissing, LedgerError, json_bytes, read_dataset
from finephrase_dagster.rephrase.ledger import Ledger
from finephrase_dagster.rephrase.outcome import Completed
from finephrase_dagster.rephrase.reader import rows_of
from finephrase_dagster.rephrase.survey import Survey

REUSED = f"{META}/reused.json"
"""Exists once everything that can be reused is in the ledger, so that no later run looks for it again."""
BATCH = 10_000
PUBLISHED = 1_000  # rows between two looks at full chunks
MOST_OPEN = 100  # input files whose rows are recorded at the same time, should their order have changed
LIMITS = {"memory_limit": "512MB", "threads": "2"}
PLACES = pa.schema([("shard", pa.int64()), ("row", pa.int64()), ("id", pa.string()), ("document_sha256", pa.string())])
IN_FILE = 2**32
KEY = "md5_number(document_sha256 || id)"
INSERT = f"INSERT INTO places SELECT shard, row, {KEY} FROM batch"
JOIN = f"""
    COPY (
        SELECT shard, row, min(number * {IN_FILE} + file_row_number) AS location
        FROM read_parquet(?, filename = true, file_row_number = true) JOIN files USING (filename)
        JOIN places ON places.key = {KEY} WHERE finish_reason <> 'length' GROUP BY shard, row ORDER BY location
    ) TO '{{}}'
"""


def take_over(ledger: Ledger, dataset: Dataset, survey: Survey, log: Callable[[str], None] = lambda line: None) -> bool:
    """Record the completions that earlier datasets hold of rows that are not done, and publish them.

    The dataset's folder is claimed, and nothing is sent before the end. A run that is killed in between leaves journals
    and chunks like any other.

    Returns:
        Whether there was something to look for, so that the ledger has to be read anew.
    """
    if not must_look(dataset):
        return False
    shards: dict[int, None] = {}
    for count, (shard, row, completed) in enumerate(reusable(dataset, survey, log), 1):
        if ledger.is_done(shard, row, completed.id):
            continue
        if shard not in shards and len(shards) == MOST_OPEN:
            ledger.close(next(iter(shards)))
            del shards[next(iter(shards))]
        shards[shard] = None
        ledger.record(ledger.assign(shard), row, completed)
        if count % PUBLISHED == 0:
            ledger.publish_full()
    for shard in shards:
        ledger.close(shard)
    ledger.publish_left_over()
    ledger.publish_full()
    ledger.release()
    record_looked(dataset)
    return True


def must_look(dataset: Dataset) -> bool:
    """Return whether earlier datasets may hold completions that no run has looked for."""
    return bool(dataset.earlier) and not dataset.folder.names(REUSED)


def record_looked(dataset: Dataset) -> None:
    """Write down that all completions that can be reused are recorded."""
    dataset.folder.write(REUSED, json_bytes({"earlier": list(dataset.earlier)}))


def reusable(
    dataset: Dataset, survey: Survey, log: Callable[[str], None] = lambda line: None
) -> Iterator[tuple[int, int, Completed]]:
    """Yield the completions that can be reused, each with its input file and row, file by file of their datasets.

    Raises:
        LedgerError: an earlier dataset became unreadable.
    """
    sources: list[tuple[str, Mapping[str, Any]]] = []
    for folder in dataset.earlier:
        try:
            manifest = read_dataset(folder).manifest
        except (DatasetMissing, ArtifactDamaged) as error:
            log(f"{error} None of its completions is reused.")
            continue
        sources += [(str(Path(folder, file["path"])), manifest) for file in manifest["files"]]
    if not sources:
        return
    log("looking for completions of earlier datasets that can be reused")
    with tempfile.TemporaryDirectory() as spill:
        try:
            matches = _match(dataset, survey, [path for path, _ in sources], Path(spill))
            used: list[Mapping[str, Any]] = []
            for number, places in _by_file(matches):
                path, manifest = sources[number]
                if manifest not in used:
                    used.append(manifest)
                    dataset.add_made_with(manifest.get("made_with", []))
                rows = pq.read_table(path).take([location % IN_FILE for _, _, location in places])
                for (shard, row, _), fields in zip(places, rows.to_pylist(), strict=True):
                    yield shard, row, _completed(fields, manifest["fingerprint"])
        except (duckdb.Error, FileNotFoundError) as error:
            raise LedgerError(
                f"{dataset.folder}: completions of earlier datasets cannot be read ({error}). Run the command again, "
                "or set 'reuse: false' for the cell."
            ) from error


def _match(dataset: Dataset, survey: Survey, paths: list[str], folder: Path) -> Path:
    """Write a file with the places of the rows in the input and, as one number, in the files of earlier datasets."""
    with duckdb.connect(config={**LIMITS, "temp_directory": str(folder)}) as database:
        database.register("names", pa.table({"filename": paths, "number": range(len(paths))}))
        database.execute("CREATE TABLE files AS FROM names")
        database.execute("CREATE TABLE places (shard BIGINT, row BIGINT, key UHUGEINT)")
        for table in _places(dataset, survey):
            database.register("batch", table)
            database.execute(INSERT)
        database.execute(
            JOIN.format(str(folder / "matches.parquet").replace("'", "''")), [list(map(glob.escape, paths))]
        )
    return folder / "matches.parquet"


def _by_file(matches: Path) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """Yield the number of each file of earlier datasets with the matches in it: input file, row, and location."""
    with pq.ParquetFile(matches) as file:
        rows = (row for batch in file.iter_batches(BATCH) for row in zip(*batch.to_pydict().values(), strict=True))
        for number, places in groupby(rows, key=lambda place: place[2] // IN_FILE):
            yield number, list(places)


def _places(dataset: Dataset, survey: Survey) -> Iterator[pa.Table]:
    """Yield the place, the id and the hash of each document that would be sent."""
    requires, rows = dataset.recipe.get("requires", {}), list[tuple[Any, ...]]()
    for shard, (path, file) in enumerate(zip(survey.files, survey.surveyed, strict=True)):
        for row, content in enumerate(rows_of(path, file.rows, columns=survey.columns) if file.rows else ()):
            if content.skip is None and not not_eligible(content.text, requires):
                rows.append((shard, row, content.id, sha256_text(content.text)))
            if len(rows) == BATCH:
                yield _table(rows)
                rows.clear()
    if rows:
        yield _table(rows)


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.table(list(map(pa.array, zip(*rows, strict=True))), schema=PLACES)


def _completed(fields: dict[str, Any], source: str) -> Completed:
    """Return a row of an earlier dataset. The tokens of its discarded rollouts are not in the row."""
    rollouts = fields.pop("rollouts", 1)
    del fields["prompt"]
    return Completed(**fields, discarded=(rollouts - 1, 0, 0), reused=source)
