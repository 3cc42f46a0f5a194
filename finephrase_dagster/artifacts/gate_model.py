"""The models that gates read: a folder or a file, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.study.fields import HubReference
from finephrase_dagster.study.file import StudyError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_reference(model: str) -> HubReference:
    """Return a model's path, or its repository and revision, as `from_pretrained` takes them; "main" by default."""
    repository, _, revision = (model, "", "") if Path(model).exists() else model.partition("@")
    return HubReference(repository, revision or "main")


def model_identity(gate: str, model: str) -> str | list[list[str]]:
    """Return what identifies a gate's model in a recipe: the hashes of its files, or the hub's commit.

    Raises:
        StudyError: the model is neither on disk nor at a commit of the hub, so that another one may take its name.
    """
    path = Path(model)
    if path.exists():
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        return [[str(file.relative_to(path if path.is_dir() else path.parent)), _content(file)] for file in files]
    repository, _, revision = model.partition("@")
    if _COMMIT.fullmatch(revision):
        return model
    raise StudyError(
        f"gates.{gate}.model: {model!r} is no file or folder here, and on the hub it names no commit, so that another "
        f"model may take its place; correct the path, or write {repository}@<commit> with all 40 digits of the commit"
    )


def _content(file: Path) -> str:
    stat = file.stat()
    return _hash(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@cache
def _hash(file: Path, *stamp: int) -> str:
    """Return the hash of a file's content, computed once as long as the file does not change."""
    return sha256_file(file)
