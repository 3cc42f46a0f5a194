"""Read a synthetic dataset for its audit: manifest, rejected rows, and the completions in chunks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import MANIFEST, META
from finephrase_dagster.artifacts.fingerprint import seal, sha256_file
from finephrase_dagster.audit.gate import EXCERPT, AuditedDataset, AuditedRow, Need
from finephrase_dagster.errors import FinephraseError

REJECTED = f"{META}/rejected.parquet"
CHUNK_ROWS = 8_192
REQUIRED_FIELDS = ("rows_in", "completed", "skipped", "failed", "files")
ROW_FIELDS = tuple(column.name for column in fields(AuditedRow))
OPTIONAL_COLUMNS: tuple[Need, ...] = ("finish_reason", "source_text")


class AuditError(FinephraseError, exit_status=2):
    """The path is not a complete synthetic dataset, or a setting is wrong; the message says what to do."""


def open_dataset(path: Path, *, check: str | None) -> AuditedDataset:
    """Open a finished dataset's folder, or a single Parquet file with the columns `id` and `text`.

    Raises:
        AuditError: the folder has no readable manifest, or the file cannot be read.
    """
    offers: set[Need] = {"check"} if check else set()
    if path.is_dir():
        manifest = _read_manifest(path)
        dataset = AuditedDataset(
            files=[path / file["path"] for file in manifest["files"]],
            manifest=manifest,
            check=check,
            offers=frozenset({*offers, "manifest", "finish_reason"}),
        )
        listed = {file["path"] for file in manifest["files"]}
        unlisted = sorted({file.name for file in path.glob("part-*.parquet")} - listed)
        dataset.problems += [f"{name} is not in the manifest" for name in unlisted]
        if "seal" in manifest and manifest["seal"] != seal(manifest):
            dataset.problems.append(f"{MANIFEST} was edited")
        dataset.rejected = RejectedRows(path / REJECTED, dataset.problems)
        dataset.ids = RowIds(dataset)
        return dataset
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise AuditError(
            f"{path}: not a dataset's folder or a readable Parquet file ({error}); check the path"
        ) from error
    if missing := {"id", "text"} - set(names):
        raise AuditError(f"{path}: no column {', '.join(sorted(missing))}; an audit needs the columns id and text")
    return AuditedDataset(
        files=[path], check=check, offers=frozenset({*offers, *(name for name in OPTIONAL_COLUMNS if name in names)})
    )


def read_chunks(dataset: AuditedDataset) -> Iterator[list[AuditedRow]]:
    """Yield a dataset's rows in chunks, and record in `dataset.problems` where its files differ from the manifest."""
    listed = {file["path"]: file for file in dataset.manifest["files"]} if dataset.manifest else {}
    columns = ["id", "text", *(name for name in OPTIONAL_COLUMNS if name in dataset.offers)]
    for path in dataset.files:
        rows = 0
        try:
            with pq.ParquetFile(path) as file:
                if missing := set(columns) - set(file.schema_arrow.names):
                    raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
                for batch in file.iter_batches(CHUNK_ROWS, columns=columns):
                    rows += len(batch)
                    yield _rows(batch)
        except (OSError, pa.ArrowException) as error:
            if not dataset.manifest:
                raise AuditError(f"{path}: cannot be read ({error}); write it again") from error
            dataset.problems.append(_unreadable(path.name, error))
            continue
        if entry := listed.get(path.name):
            if rows != entry["rows"]:
                dataset.problems.append(f"{path.name} has {rows} rows, the manifest lists {entry['rows']}")
            if sha256_file(path) != entry["sha256"]:
                dataset.problems.append(f"{path.name} has another sha256 than the manifest lists")


class RejectedRows:
    """Iterates over the rows of a dataset's `rejected.parquet`; a file that cannot be read is one of its problems."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self._path, self._problems = path, problems

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            with pq.ParquetFile(self._path) as file:
                for batch in file.iter_batches(CHUNK_ROWS, columns=["id", "status", "reason"]):
                    yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            if (problem := _unreadable(REJECTED, error)) not in self._problems:
                self._problems.append(problem)


class RowIds:
    """Iterates over the ids of a dataset's rows, those without a completion included."""

    def __init__(self, dataset: AuditedDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[str]:
        for path in self._dataset.files:
            with contextlib.suppress(OSError, pa.ArrowException), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(CHUNK_ROWS, columns=["id"]):
                    yield from map(str, batch["id"].to_pylist())
        for row in self._dataset.rejected:
            yield str(row["id"])


def read_excerpts(dataset: AuditedDataset, ids: Iterable[str]) -> dict[str, str]:
    """Return the beginnings of some completions, by id."""
    excerpts: dict[str, str] = {}
    missing = set(ids)
    for path in dataset.files:
        if not missing:
            break
        with contextlib.suppress(OSError, pa.ArrowException), pq.ParquetFile(path) as file:  # read_chunks reports them
            for batch in file.iter_batches(CHUNK_ROWS, columns=["id", "text"]):
                for row in _rows(batch):
                    if row.id in missing:
                        excerpts[row.id] = row.text[:EXCERPT]
                        missing.remove(row.id)
    return excerpts


def _rows(batch: pa.RecordBatch) -> list[AuditedRow]:
    names = set(batch.schema.names)
    columns = [batch[name].to_pylist() if name in names else repeat(None) for name in ROW_FIELDS]
    return [AuditedRow(str(id), text or "", *others) for id, text, *others in zip(*columns, strict=False)]


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AuditError(
            f"{folder}: no {MANIFEST}, so the dataset is not complete; finish the rephrasing first"
        ) from error
    except (OSError, ValueError) as error:
        raise AuditError(f"{path}: cannot be read ({error}); rephrase again into another folder") from error
    missing = [name for name in REQUIRED_FIELDS if not isinstance(manifest, dict) or name not in manifest]
    if missing:
        raise AuditError(f"{path}: missing {', '.join(missing)}, so this is not the manifest of a synthetic dataset")
    return manifest


def _unreadable(name: str, error: Exception) -> str:
    return f"{name} cannot be read ({str(error).splitlines()[0]})"
