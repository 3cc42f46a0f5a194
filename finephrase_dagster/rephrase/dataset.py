"""A synthetic dataset on disk: its recipe, its row counts, and the manifest, which exists if it is complete."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import MANIFEST, build_manifest
from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.fingerprint import differences, fingerprint, plain
from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.provenance import installed, other_versions
from finephrase_dagster.artifacts.verification import ArtifactDamaged, check_folder
from finephrase_dagster.corpora.eligibility import NOT_ELIGIBLE
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.outcome import NONE, Discarded, total_discarded

REJECTED = f"{META}/rejected.parquet"
CHUNKS = f"{META}/chunks"
RECIPE = f"{META}/recipe.json"
DATA_FILES = "part-*.parquet"
MOST_REASONS = 20
REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("status", pa.string()), ("reason", pa.string())])


class LedgerError(FinephraseError):
    """A dataset's files do not add up, or are damaged; the message says what to do."""


class NothingCompleted(FinephraseError):
    """Rows failed and none has a completion; no manifest is written, and the next run tries all of them again."""

    @classmethod
    def of(cls, counts: Iterable[RowCounts]) -> NothingCompleted:
        """Return the error for the datasets of a run."""
        remedy = "Remove the cause, then run the command again: it tries every row again."
        return cls(f"{no_completion(counts)} {remedy}")


class RecipeChanged(FinephraseError, exit_status=2):
    """A folder holds rows of another recipe; the message names the differences."""


class DatasetMissing(FinephraseError, exit_status=2):
    """A folder does not hold a complete dataset."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset to write.

    Attributes:
        recipe: see `artifacts.recipe.dataset_recipe`.
        earlier: the folders of datasets whose completions are reused, see `artifacts.earlier`.
        libraries: whose versions the manifest records, see `artifacts.versions`.
    """

    folder: Folder
    recipe: Mapping[str, Any]
    earlier: tuple[str, ...] = ()
    libraries: Literal["synthetic", "endpoint"] = "synthetic"

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.recipe)

    @property
    def has_rollouts(self) -> bool:
        """Whether rows may be drawn several times."""
        return "rollouts" in self.recipe

    @property
    def keeps_raw(self) -> bool:
        """Whether rows also hold the completion before cleaning."""
        return bool(self.recipe.get("keep_raw"))

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest; None if the dataset is not complete.

        Raises:
            RecipeChanged: the folder holds rows of another recipe, complete or not.
            LedgerError: the manifest is damaged, or a file of the dataset is not what it lists.
        """
        manifest = self._read(MANIFEST)
        begun = manifest or self._read(RECIPE)
        if begun is None:
            if strangers := self.folder.names(DATA_FILES):
                raise RecipeChanged(
                    f"{self.folder}: holds {strangers[0]}, but no recipe of how it was generated. Choose another "
                    "folder."
                )
        elif begun["fingerprint"] != self.fingerprint and (manifest or self._holds_rows()):
            changes = "; ".join(differences(begun["recipe"], plain(self.recipe)))
            raise RecipeChanged(
                f"{self.folder}: holds rows of another recipe: {changes}. Go back to that recipe, or choose another "
                "folder."
            )
        if manifest:
            try:
                check_folder(self.folder, manifest, strays=True)
            except ArtifactDamaged as error:
                raise LedgerError(str(error)) from error
        return manifest

    def written_manifest(self) -> dict[str, Any]:
        """Return the manifest of a dataset that was just completed; raises like `manifest`."""
        if (manifest := self.manifest()) is None:
            raise LedgerError(f"{self.folder}: its manifest was deleted during the run. Run the command again.")
        return manifest

    def begun_recipe(self) -> Mapping[str, Any]:
        """Return the recipe that the folder was begun with; empty if it holds none."""
        begun = self._read(MANIFEST) or self._read(RECIPE) or {}
        return begun.get("recipe", {})

    def reopen(self) -> None:
        """Make a complete dataset incomplete again, so that the rows without a completion are sent again.

        The recipe and the data files stay. Summaries that a killed run left hold the failed rows, so they go first.
        """
        with self.folder.claim():
            for name in (*self.folder.names(f"{CHUNKS}/*.parquet"), MANIFEST):
                self.folder.remove(name)

    def begin(self, log: Callable[[str], None] = lambda line: None) -> None:
        """Write down the recipe of the rows that the folder will hold, and the libraries of each run that adds rows.

        `log` receives a line if earlier rows were made with other libraries.
        """
        begun, now = self._read(RECIPE), installed(self.libraries)
        same = begun is not None and begun["fingerprint"] == self.fingerprint
        made_with = self.made_with() if same else []
        if others := other_versions(self.libraries, made_with):
            log(f"{self.folder}: earlier rows were made with {', '.join(others)}; the manifest lists both")
        if not same or now not in made_with:
            made_with = [*made_with, now]
            content = {"fingerprint": self.fingerprint, "recipe": plain(self.recipe), "made_with": made_with}
            self.folder.write(RECIPE, json_bytes(content))

    def made_with(self) -> list[dict[str, str]]:
        """Return the versions of the libraries of each run that added rows, without repetitions."""
        return list((self._read(RECIPE) or {}).get("made_with", []))

    def add_made_with(self, versions: Iterable[dict[str, str]]) -> None:
        """Add the versions of libraries that made rows which this dataset, already begun, takes from another one."""
        content = self._read(RECIPE) or {}
        content["made_with"] += [one for one in versions if one not in content["made_with"]]
        self.folder.write(RECIPE, json_bytes(content))

    def _holds_rows(self) -> bool:
        if self.folder.names(DATA_FILES) or self.folder.names(f"{CHUNKS}/*.parquet"):
            return True
        for name in self.folder.journals():
            journal = self.folder.journal(name)
            has_rows = bool(journal.read())
            journal.close()
            if has_rows:
                return True
        return False

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self.folder.read(name))
            content["fingerprint"], content["recipe"], content["files"] if name == MANIFEST else None
            return content
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "Delete it" if name == MANIFEST else "Restore it, or delete this folder,"
            raise LedgerError(
                f"{self.folder}: {name} is damaged ({error}). {remedy} and run the command again."
            ) from error


@dataclass(kw_only=True)
class RowCounts:
    """The counts of a dataset's rows and tokens, and its data files.

    Attributes:
        cleaned: number of completions by the cleaning rule that removed something.
        discarded: number of rollouts that were not kept, their prompt tokens and their completion tokens.
        reused: number of reused completions, their prompt tokens and completion tokens, by the dataset they are from.
        files: `path`, `rows` and `sha256` of each data file.
        rejected: number of rows by status and reason.
    """

    rows_in: int
    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    documents_cut: int = 0
    cleaned: Counter[str] = field(default_factory=Counter)
    discarded: Discarded = NONE
    reused: dict[str, Discarded] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def skipped(self) -> int:
        return self._rejected("skipped")

    @property
    def failed(self) -> int:
        return self._rejected("failed")

    @property
    def reused_rows(self) -> int:
        return sum(count[0] for count in self.reused.values())

    @property
    def not_eligible(self) -> int:
        """The rows that were skipped because their document does not have what the prompt requires."""
        return sum(count for (_, reason), count in self.rejected.items() if reason.startswith(NOT_ELIGIBLE))

    def _rejected(self, status: str) -> int:
        return sum(count for (row_status, _), count in self.rejected.items() if row_status == status)

    def facts(self) -> dict[str, Any]:
        """Return the counts as fields of the manifest, with the most common reasons of rejected rows."""
        names = ("rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens", "documents_cut")
        reasons = {f"{status}: {why}": count for (status, why), count in self.rejected.most_common(MOST_REASONS)}
        counts = {name: getattr(self, name) for name in names}
        counts |= {"not_eligible": self.not_eligible} if self.not_eligible else {}
        discarded = dict(zip(("rollouts", "prompt_tokens", "completion_tokens"), self.discarded, strict=True))
        if self.reused:
            rows, prompt_tokens, completion_tokens = total_discarded(self.reused.values())
            datasets = {name: count[0] for name, count in sorted(self.reused.items())}
            tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
            counts["reused"] = {"rows": rows, **tokens, "datasets": datasets}
        return {**counts, "cleaned": dict(sorted(self.cleaned.items())), "discarded": discarded, "reasons": reasons}


def is_without_completions(counts: Collection[RowCounts]) -> bool:
    """Return whether rows failed, and no row of any dataset has a completion."""
    return any(count.failed for count in counts) and not any(count.completed for count in counts)


def no_completion(counts: Iterable[RowCounts]) -> str:
    """Return the sentence for datasets without completions."""
    rejected = sum((count.rejected for count in counts), Counter[tuple[str, str]]())
    reason = max((key for key in rejected if key[0] == "failed"), key=rejected.__getitem__)[1]
    return f"no row has a completion. The most common reason is: {reason.rstrip('.')}."


def write_manifest(
    dataset: Dataset, counts: RowCounts, rejected: Iterable[pa.Table], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete a dataset whose data files are in its folder: write its rejected rows, then its manifest."""
    file = io.BytesIO()
    with pq.ParquetWriter(file, REJECTED_SCHEMA, compression="zstd") as writer:
        for table in rejected:
            if len(table):
                writer.write_table(table)
    content = file.getvalue()
    dataset.folder.write(REJECTED, content)
    meta_files = [{"path": REJECTED, "bytes": len(content), "sha256": sha256_bytes(content)}]
    facts = {**counts.facts(), **facts, "made_with": dataset.made_with(), "meta_files": meta_files}
    manifest = build_manifest(dataset.recipe, facts, counts.files, content=[*counts.files, *meta_files])
    dataset.folder.write(MANIFEST, json_bytes(manifest))
    return manifest


@dataclass(frozen=True, kw_only=True)
class FinishedDataset:
    """A complete dataset, as `read_dataset` returns it.

    Attributes:
        folder: its folder, a path or a URL.
        manifest: `recipe`, `rows_in`, `completed`, `skipped`, `failed`, token counts, `files`, `run` (cost and time).
    """

    folder: str
    manifest: Mapping[str, Any]

    def table(self) -> pa.Table:
        """Return the completions as an Arrow table (`.to_pandas()` makes it a data frame)."""
        return self._read(file["path"] for file in self.manifest["files"])

    def rejected(self) -> pa.Table:
        """Return the rows without a completion: `id`, `status` (skipped or failed) and `reason`."""
        return self._read([REJECTED])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The completions as dictionaries: `id`, `prompt`, `text`, `finish_reason` and more."""
        return self.table().to_pylist()

    def __len__(self) -> int:
        return int(self.manifest["completed"])

    def _read(self, paths: Iterable[str]) -> pa.Table:
        folder = folder_at(self.folder)
        tables = [read_parquet(folder.read(path)) for path in paths]
        return pa.concat_tables(tables) if tables else pa.table({})


def read_dataset(folder: str | Path) -> FinishedDataset:
    """Open a complete dataset, such as `out/faq` (a folder or a URL).

    Raises:
        DatasetMissing: the folder holds no complete dataset.
        ArtifactDamaged: a file is not what the manifest lists.
    """
    location = folder_at(folder)
    try:
        manifest = json.loads(location.read(MANIFEST))
    except FileNotFoundError as error:
        prompts = [name for name in location.folders() if location.below(name).names(MANIFEST)]
        remedy = (
            f"It holds the datasets of several prompts; open one of them: {location}/{prompts[0]}."
            if prompts
            else "Check the path; if a run was interrupted, run the same command again to resume it."
        )
        raise DatasetMissing(f"{location}: no {MANIFEST}, so it is not a complete dataset. {remedy}") from error
    check_folder(location, manifest)
    return FinishedDataset(folder=str(folder), manifest=manifest)


def parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=["prompt", "finish_reason", "cleaned"])
    return file.getvalue()


def read_parquet(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file's bytes. (`pq.read_table` imports for longer than most files take to read.)"""
    with pq.ParquetFile(io.BytesIO(content)) as file:
        return file.read(columns=columns)


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
