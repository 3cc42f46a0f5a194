"""A dataset of a prompt: its recipe, the account of its rows, and the manifest that stands if it is complete."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import MANIFEST, META, build_manifest
from finephrase_dagster.artifacts.fingerprint import differences, fingerprint, plain
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.folder import Folder

REJECTED = f"{META}/rejected.parquet"
CHUNKS = f"{META}/chunks"
RECIPE = f"{META}/recipe.json"


class LedgerError(FinephraseError):
    """A dataset's files do not add up, or are damaged; the message says what to do."""


class RecipeChanged(FinephraseError, exit_status=2):
    """A folder holds rows of another recipe; the message names what differs."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset to be made: where, and by which recipe."""

    folder: Folder
    recipe: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.recipe)

    def manifest(self) -> dict[str, Any] | None:
        """Its manifest; None if it is not complete.

        Raises:
            RecipeChanged: what stands there, complete or not, was made by another recipe.
            LedgerError: the manifest is damaged, or a file of it is gone.
        """
        found = self._read(MANIFEST)
        begun = found or self._read(RECIPE)
        if begun is None:
            if strangers := self.folder.names("part-*.parquet"):
                raise RecipeChanged(
                    f"{self.folder}: holds {strangers[0]}, but nothing that says how it was made; choose another folder"
                )
        elif begun["fingerprint"] != self.fingerprint and (found or self._holds_rows()):
            changes = "; ".join(differences(begun["recipe"], plain(self.recipe)))
            raise RecipeChanged(
                f"{self.folder}: holds rows of another recipe: {changes}. Go back to that recipe, or choose "
                "another folder"
            )
        there = {*self.folder.names("part-*.parquet"), *self.folder.names(REJECTED)} if found else set()
        if found and (gone := {REJECTED, *(file["path"] for file in found["files"])} - there):
            raise LedgerError(
                f"{self.folder}: {min(gone)} is gone; delete {MANIFEST} and run again, which does its rows again"
            )
        return found

    def begin(self) -> None:
        """Writes down the recipe of what will stand in the folder."""
        begun = self._read(RECIPE)
        if begun is None or begun["fingerprint"] != self.fingerprint:
            content = {"fingerprint": self.fingerprint, "recipe": plain(self.recipe)}
            self.folder.write(RECIPE, json_bytes(content))

    def _holds_rows(self) -> bool:
        if self.folder.names("part-*.parquet") or self.folder.names(f"{CHUNKS}/*.parquet"):
            return True
        for name in self.folder.journals():
            journal = self.folder.journal(name)
            held = bool(journal.read())
            journal.close()
            if held:
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
            remedy = "delete it" if name == MANIFEST else "put it back, or delete this folder"
            raise LedgerError(f"{self.folder}: {name} is damaged ({error}); {remedy} and run again") from error


@dataclass(kw_only=True)
class Account:
    """What became of every row of a dataset."""

    rows_in: int
    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    documents_cut: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def skipped(self) -> int:
        return self._rejected("skipped")

    @property
    def failed(self) -> int:
        return self._rejected("failed")

    def _rejected(self, status: str) -> int:
        return sum(count for (of, _), count in self.rejected.items() if of == status)

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it, the files apart."""
        names = ("rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens", "documents_cut")
        reasons = {f"{status}: {why}": count for (status, why), count in self.rejected.most_common(20)}
        return {**{name: getattr(self, name) for name in names}, "reasons": reasons}


def write_manifest(dataset: Dataset, account: Account, rejected: pa.Table, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Completes a dataset whose parts stand in its folder: its rejected rows, then its manifest."""
    content = parquet(rejected)
    dataset.folder.write(REJECTED, content)
    hashed = [*account.files, {"path": REJECTED, "sha256": sha256_bytes(content)}]
    manifest = build_manifest(dataset.recipe, {**account.facts(), **facts}, account.files, content=hashed)
    dataset.folder.write(MANIFEST, json_bytes(manifest))
    return manifest


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=["prompt", "finish_reason"])
    return file.getvalue()


def read_parquet(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table of a Parquet file's bytes; not by `read_table`, whose own imports take longer than most files."""
    with pq.ParquetFile(io.BytesIO(content)) as file:
        return file.read(columns=columns)


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
