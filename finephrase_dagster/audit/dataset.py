"""Open what is audited: the folder of a finished dataset, or any Parquet and JSONL files with a column `text`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import MANIFEST, META
from finephrase_dagster.artifacts.fingerprint import seal, sha256_file
from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Need
from finephrase_dagster.audit.span import Span, chunks
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.inputs import input_files
from finephrase_dagster.corpora.rows import check_ending, open_file, read_rows
from finephrase_dagster.corpora.table import missing_column
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompt

REJECTED = f"{META}/rejected.parquet"
BATCH_ROWS = 8_192
REQUIRED_FIELDS = ("rows_in", "completed", "skipped", "failed", "files")
OPTIONAL_COLUMNS: tuple[Need, ...] = ("finish_reason", "source_text")
PEEKED = 100  # rows of a JSONL file that show which columns it has


class AuditError(FinephraseError, exit_status=2):
    """What is to be audited cannot be read, or a setting is wrong; the message says what to do."""


def open_dataset(paths: Sequence[str | Path], *, check: str | None) -> AuditedDataset:
    """Open a finished dataset's folder, or several folders and files together.

    Only a single folder with a manifest is compared with it; of several, the files that their manifests list are read.

    Raises:
        AuditError: a folder has no readable manifest and no files, or a file cannot be read.
    """
    try:
        if len(paths) == 1 and _is_dataset(paths[0]):
            return _open_folder(Path(paths[0]), check)
        urls = [url for path in paths for url in _urls(path)]
        files = [_open_file(url, f"{url}:" if len(urls) > 1 else "") for url in dict.fromkeys(urls)]
    except (CorpusError, StudyError) as error:
        raise AuditError(str(error)) from error
    offers: set[Need] = {name for name in OPTIONAL_COLUMNS if all(name in file.columns for file in files)}
    return AuditedDataset(files=files, check=check, offers=frozenset({*offers, *_check(check)}))


def datasets_in(path: str | Path) -> dict[str, Path]:
    """Return the folders of datasets in a folder, by name: those of several prompts."""
    return {meta.parent.name: meta.parent for meta in sorted(Path(path).glob(f"*/{META}"))}


def recorded_check(folder: Path) -> str | None:
    """Return the form that the completions of a dataset must have, if its prompt is a packaged one."""
    recipe = _read_manifest(folder).get("recipe") or {}
    prompt = recipe.get("prompt") or {}
    packaged = SHIPPED / "prompts" / f"{prompt.get('name')}.md"
    known = read_prompt(packaged) if packaged.exists() else None
    return known.check if known is not None and known.template == prompt.get("template") else None


def open_sources(paths: Sequence[str | Path]) -> list[Span]:
    """Open files, or folders of files such as a corpus, with the columns `id` and `text`.

    Raises:
        AuditError: one of them cannot be read, or lacks a column.
    """
    try:
        files = [_open_file(url, "") for path in paths for url in _listed(path)]
        for file in files:
            if file.id_column is None and file.columns:
                raise missing_column(file.url, "id", file.columns)
    except (CorpusError, StudyError) as error:
        raise AuditError(f"--source {error}") from error
    return [replace(file, columns=("id", "text")) for file in files]


def read_chunks(dataset: AuditedDataset, spans: Sequence[Span]) -> Iterator[list[AuditedRow]]:
    """Yield the rows of spans in chunks; a file of a manifest that cannot be read is one of the dataset's problems.

    Raises:
        AuditError: another file cannot be read.
    """
    for span in spans:
        try:
            yield from chunks(span.rows())
        except CorpusError as error:
            if dataset.manifest is None:
                raise AuditError(str(error)) from error
            flaw = str(error).removeprefix(f"{span.url}: ")
            dataset.problems.append(f"{Path(span.url).name} cannot be read ({flaw})")


def compare_files(dataset: AuditedDataset, spans: Sequence[Span]) -> None:
    """Record in `dataset.problems` which files differ from the manifest, of those that begin in these spans."""
    entries = {file["path"]: file for file in dataset.manifest["files"]} if dataset.manifest else {}
    for path in (Path(span.url) for span in spans if not span.start):
        if (entry := entries.get(path.name)) is None:
            continue
        with contextlib.suppress(OSError, pa.ArrowException):  # reading its rows reports it
            if (rows := pq.read_metadata(path).num_rows) != entry["rows"]:
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
                for batch in file.iter_batches(BATCH_ROWS, columns=["id", "status", "reason"]):
                    yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            problem = f"{REJECTED} cannot be read ({str(error).splitlines()[0]})"
            if problem not in self._problems:
                self._problems.append(problem)


class RowIds:
    """Iterates over the ids of a dataset's rows, those without a completion included."""

    def __init__(self, dataset: AuditedDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[str]:
        for span in self._dataset.files:
            with contextlib.suppress(CorpusError):  # reading the texts reports it
                yield from (name for name, _ in span.ids())
        for row in self._dataset.rejected:
            yield str(row["id"])


def _open_folder(folder: Path, check: str | None) -> AuditedDataset:
    manifest = _read_manifest(folder)
    listed = {file["path"] for file in manifest["files"]}
    columns = ("id", "text", "finish_reason")
    dataset = AuditedDataset(
        files=[
            Span(url=str(path), columns=columns, size=path.stat().st_size if path.exists() else 0)
            for path in (folder / file["path"] for file in manifest["files"])
        ],
        manifest=manifest,
        check=check,
        offers=frozenset({"manifest", "finish_reason", *_check(check)}),
    )
    unlisted = sorted({file.name for file in folder.glob("*.parquet")} - listed)
    dataset.problems += [f"{name} is not in the manifest" for name in unlisted]
    if "seal" in manifest and manifest["seal"] != seal(manifest):
        dataset.problems.append(f"{MANIFEST} was edited")
    dataset.rejected = RejectedRows(folder / REJECTED, dataset.problems)
    dataset.ids = RowIds(dataset)
    return dataset


def _open_file(url: str, prefix: str) -> Span:
    """Return a file as one span, with those of the columns that it has."""
    with open_file(url) as file:
        check_ending(url)
        if url.endswith(".parquet"):
            with pq.ParquetFile(file) as table:
                present = table.schema_arrow.names
        else:
            rows = islice(read_rows(url), PEEKED)
            present = list({name: None for row in rows for name in row.values or {}})
        file.seek(0, 2)
        size = file.tell()
    if "text" not in present and (present or url.endswith(".parquet")):
        raise missing_column(url, "text", present)
    return Span(
        url=url,
        columns=tuple(name for name in ("id", "text", *OPTIONAL_COLUMNS) if name in present),
        id_column="id" if "id" in present else None,
        prefix=prefix,
        size=size,
    )


def _urls(path: str | Path) -> list[str]:
    """Return the files of an input, in order."""
    if _is_dataset(path):
        return [str(Path(path) / file["path"]) for file in _read_manifest(Path(path))["files"]]
    if inner := list(datasets_in(path)):
        raise AuditError(f"{path}: holds the datasets {', '.join(inner)}; audit one of them, such as {path}/{inner[0]}")
    return _listed(path)


def _listed(path: str | Path) -> list[str]:
    """Return the files of a folder, such as a corpus; or the file itself, if that is what the path names."""
    return [file.url for file in input_files([str(path)])] if Path(path).is_dir() else [str(path)]


def _is_dataset(path: str | Path) -> bool:
    """Whether a path is the folder of a dataset, or of one that is not finished; an empty folder is one."""
    folder = Path(path)
    return folder.is_dir() and ((folder / META).exists() or not any(folder.iterdir()))


def _check(check: str | None) -> set[Need]:
    return {"check"} if check else set()


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
