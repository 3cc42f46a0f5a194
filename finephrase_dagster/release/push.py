"""Uploading a release to the Hugging Face hub: few large commits, resumed where an earlier upload ended.

What the repository has already, by hash, is not sent again. The card and the manifest come last, so that the hub shows
a configuration only when its files are there.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from finephrase_dagster.artifacts.artifact import MANIFEST
from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.errors import FinephraseError

TOKEN = "HF_TOKEN"
COMMIT_FILES, COMMIT_BYTES = 100, 50e9  # of one commit, at most
ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 8, 1.0, 300.0
LAST = ("README.md", MANIFEST)
T = TypeVar("T")


class PushFailed(FinephraseError, retryable=True):
    """The hub refuses an upload, or does not answer; the message says what to do."""


class PushUnclear(FinephraseError, exit_status=2):
    """The repository or the token is not what the hub needs."""


def check_push(repository: str) -> None:
    """Raise PushUnclear if a release cannot be uploaded for a reason that shows before anything is done."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise PushUnclear(f"--push {repository!r} is not a repository; write <owner>/<name>.")
    if not os.environ.get(TOKEN):
        raise PushUnclear(f"--push needs a token with write access in the environment variable {TOKEN}.")


def push_release(
    folder: Path, manifest: Mapping[str, Any], repository: str, log: Callable[[str], None] = lambda line: None
) -> int:
    """Upload a release; return the number of commits, 0 if the repository has all of it.

    Raises:
        PushUnclear, PushFailed: see there.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars

    check_push(repository)
    disable_progress_bars()
    api = HfApi(token=os.environ[TOKEN])
    where: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
    hashes = {file["path"]: file["sha256"] for file in manifest["files"]} | {MANIFEST: sha256_file(folder / MANIFEST)}
    sizes = {path: (folder / path).stat().st_size for path in hashes}

    def commit(paths: Sequence[str]) -> bool:
        """Commit what is missing; what is there is asked before each attempt, for an answer may have been lost."""
        entries = api.list_repo_tree(**where, recursive=True)
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        missing = [path for path in paths if not _is_same(there.get(path), folder / path, hashes[path])]
        operations: list[Any] = [CommitOperationAdd(path, str(folder / path)) for path in missing]
        if MANIFEST in paths:  # readers would also read data files of an earlier release
            folders = tuple(f"{name}/" for name in manifest["configurations"])
            others = [path for path in there if path.startswith(folders) and path not in hashes]
            operations += [CommitOperationDelete(path) for path in others]
        if operations:
            message = f"Release {manifest['version']}: {len(operations)} files"
            api.create_commit(**where, operations=operations, commit_message=message)
            log(f"{repository}: committed {len(operations)} files, {sum(map(sizes.__getitem__, missing)):,} bytes")
        return bool(operations)

    _retried(lambda: api.create_repo(**where, exist_ok=True), log)
    return sum(_retried(partial(commit, paths), log) for paths in _batches(sizes))


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the files of each commit."""
    batch: list[str] = []
    size = 0
    for path in (path for path in sizes if path not in LAST):
        if batch and (len(batch) == COMMIT_FILES or size + sizes[path] > COMMIT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += sizes[path]
    yield from ([batch] if batch else [])
    yield list(LAST)


def _is_same(entry: Any, path: Path, sha256: str) -> bool:
    """Return whether a file of the repository has the content of a local one; small ones have a hash of Git's own."""
    if entry is None or entry.lfs is not None:
        return entry is not None and entry.lfs.sha256 == sha256
    content = path.read_bytes() if entry.size == path.stat().st_size else b""
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())


def _retried(action: Callable[[], T], log: Callable[[str], None]) -> T:
    """Return what an action returns, tried again after failures that may pass."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for attempt in range(ATTEMPTS):
        asked = 0.0
        try:
            return action()
        except OfflineModeIsEnabled as error:
            raise PushUnclear("--push needs the network, and HF_HUB_OFFLINE is set; unset it.") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            reason, after = f"HTTP {status}", error.response.headers.get("Retry-After", "")
            asked = float(after) if after.isdigit() else 0.0
            if status in (400, 401, 403, 404):
                remedy = f"Check the repository's name and that {TOKEN} may write to it."
                raise PushUnclear(f"the hub refuses the upload ({reason}). {remedy}") from error
        except Exception as error:  # the network libraries of the hub's client raise errors of their own
            if not isinstance(error, OSError | RuntimeError) and not type(error).__module__.startswith("http"):
                raise
            reason = f"{type(error).__name__}: {error}"
        wait = max(asked, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.75, 1.25))
        if attempt + 1 < ATTEMPTS:
            log(f"the hub does not answer as it should ({reason}); trying again in {wait:.0f} s")
            time.sleep(wait)
    raise PushFailed(f"the hub failed {ATTEMPTS} times, at last with {reason}. Run the same command again to resume.")
