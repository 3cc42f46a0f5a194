"""The files that paths, folders and glob patterns name, on this machine or in an object store, and their versions."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.corpora.object_store import file_system, reported
from finephrase_dagster.study.file import StudyError

JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
WARC = (".warc", ".warc.gz", ".wet", ".wet.gz")
ENDINGS = (".parquet", *JSONL, *WARC)
LISTED = 100  # most files that a recipe lists; of a longer list it has the hash
MAGIC = "*?["
REMEMBERED = 60.0  # seconds for which the listing of a store is reused; it is needed once per partition
_STAMPS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified", "updated", "created")
_listings: dict[str, tuple[float, list[InputFile]]] = {}


class InputFile(NamedTuple):
    """One file.

    Attributes:
        url: its path, or its URL in a store.
        size: the size in bytes.
        stamp: changes when the file changes: the time of its last change in nanoseconds, or the store's ETag or time.
    """

    url: str
    size: int
    stamp: str


def input_files(patterns: Iterable[str]) -> list[InputFile]:
    """Return the files that patterns name, sorted by path or URL, each once.

    A folder stands for all files in it and its subfolders whose endings are known (`ENDINGS`), without hidden ones and
    those that begin with an underscore.

    Raises:
        StudyError: a pattern matches nothing or a file of an unknown format, or its store cannot be read.
    """
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        files = _list_store(pattern) if "://" in pattern else list(_local(pattern))
        if not files:
            raise StudyError(
                f"path {pattern}: no such file, and no folder that holds {', '.join(ENDINGS)}; correct the path"
            )
        for file in files:
            if not file.url.endswith(ENDINGS):
                raise StudyError(
                    f"path {file.url}: none of {', '.join(ENDINGS)}; convert the file, or remove it from the paths"
                )
            found[file.url] = file
    return sorted(found.values())


def described(files: Sequence[InputFile]) -> Any:
    """Return files for a recipe: a list, or of many files their number, size and a hash of the list."""
    if len(files) <= LISTED:
        return [list(file) for file in files]
    return {"number": len(files), "bytes": sum(file.size for file in files), "list": fingerprint(files)}


def _local(pattern: str) -> Iterator[InputFile]:
    # Path.glob takes no absolute patterns.
    matches = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)  # noqa: PTH207
    for match in map(Path, matches):
        inside = match.rglob("*") if match.is_dir() else [match]
        for path in inside:
            if not path.is_dir() and (path == match or _is_listed(path.relative_to(match).parts)):
                if not path.is_file():
                    raise StudyError(
                        f"path {path}: is not a file but a pipe, a device or a broken link; replace it by a file"
                    )
                status = path.stat()
                yield InputFile(str(path), status.st_size, str(status.st_mtime_ns))


def _is_listed(parts: tuple[str, ...]) -> bool:
    """Whether a file in a folder is meant if the folder is named."""
    return parts[-1].endswith(ENDINGS) and not any(part.startswith((".", "_")) for part in parts)


def _list_store(pattern: str) -> list[InputFile]:
    now = time.monotonic()
    listed, files = _listings.get(pattern, (-REMEMBERED, []))
    if not files or now - listed >= REMEMBERED:
        files = list(_stored(pattern))
        _listings[pattern] = now, files
    return files


def _stored(pattern: str) -> Iterator[InputFile]:
    try:
        store, path = file_system(pattern)
        store.invalidate_cache()  # otherwise an earlier listing is returned for the lifetime of the process
        matches: Mapping[str, Mapping[str, Any]] = {}
        with reported(pattern):
            if any(character in path for character in MAGIC):
                matches = store.glob(path, detail=True)
            elif store.exists(path):
                matches = {path: store.info(path)}
        for name, facts in matches.items():
            if facts["type"] != "directory":
                yield _of_store(store.unstrip_protocol(name), facts)
                continue
            depth = len(name.rstrip("/")) + 1
            for inner, inner_facts in store.find(name, detail=True).items():
                if _is_listed(tuple(inner[depth:].split("/"))):
                    yield _of_store(store.unstrip_protocol(inner), inner_facts)
    except ImportError as error:
        raise StudyError(f"path {pattern}: {error}; install it, or copy the files to this machine") from error
    except Exception as error:  # the libraries of object stores raise errors of their own
        raise StudyError(
            f"path {pattern}: the store cannot be read ({error}); check that it answers and that the environment has "
            "credentials that it accepts"
        ) from error


def _of_store(url: str, facts: Mapping[str, Any]) -> InputFile:
    stamp = next((facts[name] for name in _STAMPS if facts.get(name) is not None), "")
    return InputFile(url, int(facts.get("size") or 0), str(stamp).strip('"'))
