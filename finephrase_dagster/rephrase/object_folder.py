"""The folder of a dataset in an object store, through fsspec.

A file appears when its upload has finished. An object store cannot append, so a journal's records are uploaded together
at every `sync`. It has no locks either; see `rephrase/lock.py`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.folder import JOURNALS, Folder, FolderUnusable, Journal, Stamp
from finephrase_dagster.artifacts.leases import refuse_if_leased
from finephrase_dagster.corpora.object_store import file_system, reported
from finephrase_dagster.rephrase.lock import Lock

FIRST = "00000"
MARKS = ("ETag", "etag", "md5Hash", "content_hash", "LastModified", "created")  # each store has some of them


class ObjectFolder:
    """A prefix of an object store; credentials and endpoint come from the environment.

    Errors of the store's library become FolderUnusable, except FileNotFoundError.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store, self._root = file_system(self.url)
        self._lock: Lock | None = None

    def __str__(self) -> str:
        return self.url

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        lock = self._lock = Lock(self)
        lock.take()
        try:
            refuse_if_leased(self)
            journals = set(self.journals())
            names = self.names(f"{JOURNALS}/*")
            self.remove_all([name for name in names if _journal_of(name) not in journals])
            yield
        finally:
            lock.release()
            self._lock = None

    @contextlib.contextmanager
    def share(self) -> Iterator[None]:
        Lock(self).refuse_if_held()
        yield

    def names(self, pattern: str) -> list[str]:
        directory, slash, _ = pattern.rpartition("/")
        names = self._entries(f"{slash}{directory}", "file")
        return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern) and not name.endswith("/"))

    def stamps(self, names: Sequence[str]) -> dict[str, Stamp]:
        entries: dict[str, dict[str, Any]] = {}
        for directory, slash in {name.rpartition("/")[:2] for name in names}:
            entries |= self._entries(f"{slash}{directory}", "file")
        return {name: _stamp(entries[name]) for name in names if name in entries}

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.read(name)).hexdigest()

    def folders(self) -> list[str]:
        return sorted(name.rstrip("/") for name in self._entries("", "directory"))

    def _entries(self, directory: str, kind: Literal["file", "directory"]) -> dict[str, dict[str, Any]]:
        """Return all entries of one kind in a directory, by their paths in this folder."""
        self._store.invalidate_cache()
        entries: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError), self._errors(FileNotFoundError):
            entries = self._store.ls(f"{self._root}{directory}", detail=True)
        return {entry["name"].removeprefix(f"{self._root}/"): entry for entry in entries if entry["type"] == kind}

    def read(self, name: str) -> bytes:
        with self._errors(FileNotFoundError):
            return self._store.cat_file(f"{self._root}/{name}")

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Return the contents of several files, fetched concurrently."""
        with self._errors(FileNotFoundError):
            contents = self._store.cat([f"{self._root}/{name}" for name in names]) if names else {}
        return list(contents.values())

    def write(self, name: str, content: bytes) -> None:
        self._check()
        self.put(name, content)

    def put(self, name: str, content: bytes, mode: Literal["overwrite", "create"] = "overwrite") -> None:
        """Write a file without checking the lock; with `create`, raise FileExistsError if the file exists."""
        with self._errors(FileExistsError):
            self._store.pipe_file(f"{self._root}/{name}", content, mode=mode)

    def create(self, name: str, content: bytes) -> bool:
        try:
            self.put(name, content, "create")
        except FileExistsError:  # a first attempt may have succeeded, though its response was lost
            with contextlib.suppress(FileNotFoundError):
                return self.read(name) == content
            return False
        return True

    def tag(self, name: str) -> str | None:
        """Return the tag of a file's present version; None if there is no file, or the store has no tags."""
        self._store.invalidate_cache()
        with contextlib.suppress(FileNotFoundError), self._errors(FileNotFoundError):
            return self._store.info(f"{self._root}/{name}").get("ETag")
        return None

    def age(self, name: str) -> float:
        """Return the seconds since a file was written, by the store's clock; raise FileNotFoundError if there is none.

        That clock is read from a file that is written for it.
        """
        now = f"{META}/clock-{uuid.uuid4().hex}"
        self.put(now, b"")
        try:
            self._store.invalidate_cache()
            with self._errors(FileNotFoundError):
                times = [self._store.modified(f"{self._root}/{one}") for one in (now, name)]
        finally:
            self.delete([now])
        return (times[0] - times[1]).total_seconds()

    def replace(self, name: str, content: bytes, tag: str | None) -> None:
        """Replace a version of a file; raise FileExistsError if another process has replaced or deleted it since.

        Only S3 and stores like it can replace on a condition. In others the file is deleted and created again.
        """
        if tag is None or "s3" not in self._store.protocol:
            self.delete([name])
            self.put(name, content, "create")
            return
        try:
            self._store.pipe_file(f"{self._root}/{name}", content, IfMatch=tag)
        except Exception as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                raise FileExistsError(f"{self}/{name}: was replaced by another process") from error
            with self._errors():
                raise

    def remove(self, name: str) -> None:
        self.remove_all([name])

    def remove_all(self, names: Sequence[str]) -> None:
        """Delete files, those that exist, in one request."""
        self._check()
        self.delete(names)

    def delete(self, names: Sequence[str]) -> None:
        """Delete files without checking the lock."""
        if names:
            with contextlib.suppress(FileNotFoundError), self._errors(FileNotFoundError):
                self._store.rm([f"{self._root}/{name}" for name in names])

    def journals(self) -> list[str]:
        # The first segment is deleted first: a journal without one was being deleted, and its rows are in a file.
        return [_journal_of(name) for name in self.names(f"{JOURNALS}/*.{FIRST}")]

    def journal(self, name: str) -> Journal:
        return _ObjectJournal(self, f"{JOURNALS}/{name}")

    def below(self, name: str) -> ObjectFolder:
        return ObjectFolder(f"{self.url}/{name}")

    def take(self, other: Folder, name: str) -> None:
        assert isinstance(other, ObjectFolder), other
        self._check()
        with contextlib.suppress(FileNotFoundError), self._errors(FileNotFoundError):
            self._store.mv(f"{other._root}/{name}", f"{self._root}/{name}")

    def clear(self) -> None:
        with contextlib.suppress(FileNotFoundError), self._errors(FileNotFoundError):
            self._store.rm(self._root, recursive=True)

    def _check(self) -> None:
        if self._lock:
            self._lock.check()

    @contextlib.contextmanager
    def _errors(self, *expected: type[Exception]) -> Iterator[None]:
        try:
            with reported(self.url):
                yield
        except expected:
            raise
        except Exception as error:  # each store's library has errors of its own
            raise FolderUnusable(
                f"{self}: {error}. Check that the store answers, has this bucket and accepts your credentials, then "
                "run the command again: finished rows are kept."
            ) from error


class _ObjectJournal:
    """Numbered objects `<name>.00000`; each holds the records between two calls of `sync`."""

    def __init__(self, folder: ObjectFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._written: list[str] = []
        self._all = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the journal
        self._pending: list[bytes] = []
        self._syncing = threading.Lock()

    @cached_property
    def _earlier(self) -> list[str]:
        return self._folder.names(f"{self._name}.*")

    def append(self, record: bytes) -> None:
        self._pending.append(record)
        self._all.write(record)

    def sync(self) -> None:
        with self._syncing:
            if count := len(self._pending):
                segment = f"{self._name}.{len(self._earlier) + len(self._written):05d}"
                self._folder.write(segment, b"".join(self._pending[:count]))
                self._written.append(segment)
                del self._pending[:count]  # more may have been added in the meantime

    def read(self) -> bytes:
        earlier = self._folder.read_all(self._earlier)
        self._all.seek(0)
        return b"".join(earlier) + self._all.read()

    def close(self) -> None:
        self.sync()
        self._all.close()

    def remove(self) -> None:
        with self._syncing:
            self._pending.clear()
            segments = [*self._earlier, *self._written]
            self._folder.remove_all(segments[:1])
            self._folder.remove_all(segments[1:])
            self._all.close()


def _stamp(entry: Mapping[str, Any]) -> Stamp:
    return Stamp(int(entry["size"]), " ".join(str(entry[name]) for name in MARKS if entry.get(name)))


def _journal_of(name: str) -> str:
    return name.removeprefix(f"{JOURNALS}/").rpartition(".")[0]
