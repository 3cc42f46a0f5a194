"""The folder of a dataset, on a local disk or in an object store: whole files, journals, and one writer.

Files appear under their names whole or not at all: on a disk by a rename, in an object store by a finished
upload. A journal takes records one by one and keeps them when the process is killed; an object store knows
no appending, so there the records of each second are uploaded together. What is written is the ledger's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import fsspec
import psutil

from finephrase_dagster.study.artifact import whole_file

LOCK = ".lock"
JOURNALS = ".journal"
BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # a holder of the lock that was not heard of for this long is taken for dead


class FolderBusy(RuntimeError):
    """Another process writes this folder."""


class Journal(Protocol):
    """Records of one chunk, in the order in which they came."""

    def append(self, record: bytes) -> None:
        """Adds a record, which from then on survives the death of this process (see `sync`)."""

    def sync(self) -> None:
        """Makes what was added survive the machine, too; in an object store, uploads it."""

    def read(self) -> bytes:
        """All records, also those that an earlier process added."""

    def close(self) -> None:
        """Lets go of it; what was added stays."""

    def remove(self) -> None:
        """Deletes it."""


class Folder(Protocol):
    """Where a dataset stands."""

    def claim(self) -> contextlib.AbstractContextManager[None]:
        """Makes the folder and holds it for writing; raises FolderBusy if another process does."""

    def names(self, pattern: str) -> list[str]:
        """The files whose path in the folder matches, sorted."""

    def read(self, name: str) -> bytes:
        """A file's content; raises FileNotFoundError."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, whole or not at all."""

    def remove(self, name: str) -> None:
        """Deletes a file, if it is there."""

    def journals(self) -> list[str]:
        """The names of the journals there are, sorted."""

    def journal(self, name: str) -> Journal:
        """A journal, new or as an earlier process left it."""


def folder_at(place: str | Path) -> Folder:
    """The folder of a path, or of a URL such as `s3://bucket/dataset` (any scheme that fsspec knows).

    Raises:
        ValueError: nothing here reads such a URL.
    """
    text = str(place).removeprefix("file://")
    if "://" not in text:
        return LocalFolder(Path(text))
    try:
        return ObjectFolder(text)
    except ImportError as error:
        raise ValueError(f"{text}: {error}") from error


class LocalFolder:
    """A folder on a disk of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        (self.path / JOURNALS).mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderBusy(_busy(self)) from error
            for stale in self.path.rglob("*.partial"):
                stale.unlink(missing_ok=True)
            yield

    def names(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.glob(pattern) if path.is_file())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_bytes(content)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def journals(self) -> list[str]:
        return [name.removeprefix(f"{JOURNALS}/") for name in self.names(f"{JOURNALS}/*")]

    def journal(self, name: str) -> Journal:
        return _LocalJournal(self.path / JOURNALS / name)


class _LocalJournal:
    """A file; each record is one `write`, which the system keeps when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, record: bytes) -> None:
        if os.write(self._file, record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def sync(self) -> None:
        file = self._file
        if file >= 0:
            try:
                os.fdatasync(file)
            except OSError as error:
                if error.errno != errno.EBADF:  # it was closed meanwhile
                    raise

    def read(self) -> bytes:
        return self._path.read_bytes()

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def remove(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)


class ObjectFolder:
    """A prefix of an object store, through fsspec; credentials and endpoint come from the environment."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.lost = False  # another process took the lock over, for this one was not heard of
        self._store, self._root = fsspec.core.url_to_fs(self.url)

    def __str__(self) -> str:
        return self.url

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        lock = _Lock(self)
        lock.take()
        try:
            yield
        finally:
            lock.release()

    def names(self, pattern: str) -> list[str]:
        self._store.invalidate_cache()
        found = [path.removeprefix(f"{self._root}/") for path in self._store.find(self._root)]
        return sorted(
            name for name in found if fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/")
        )

    def read(self, name: str) -> bytes:
        return self._store.cat_file(f"{self._root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        if self.lost:
            raise FolderBusy(_busy(self))
        self._store.pipe_file(f"{self._root}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file unless it is there; the store decides between two that try at once."""
        try:
            self._store.pipe_file(f"{self._root}/{name}", content, mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._store.rm_file(f"{self._root}/{name}")

    def journals(self) -> list[str]:
        return sorted({name.split("/")[1].rpartition(".")[0] for name in self.names(f"{JOURNALS}/*")})

    def journal(self, name: str) -> Journal:
        return _ObjectJournal(self, f"{JOURNALS}/{name}")


class _ObjectJournal:
    """Numbered objects `<name>.00000`, each with the records between two calls of `sync`."""

    def __init__(self, folder: ObjectFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._earlier = folder.names(f"{name}.*")
        self._written: list[str] = []
        self._all = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the journal
        self._pending: list[bytes] = []
        self._turn = threading.Lock()

    def append(self, record: bytes) -> None:
        self._pending.append(record)
        self._all.write(record)

    def sync(self) -> None:
        with self._turn:
            pending, self._pending = self._pending, []
            if pending:
                number = len(self._earlier) + len(self._written)
                segment = f"{self._name}.{number:05d}"
                self._folder.write(segment, b"".join(pending))
                self._written.append(segment)

    def read(self) -> bytes:
        self._all.seek(0)
        return b"".join(self._folder.read(segment) for segment in self._earlier) + self._all.read()

    def close(self) -> None:
        self.sync()
        self._all.close()

    def remove(self) -> None:
        with self._turn:
            self._pending = []
            for segment in (*self._earlier, *self._written):
                self._folder.remove(segment)
            self._all.close()


class _Lock:
    """One writer of a prefix: an object that only its creator refreshes.

    A lock is dead if its process, where it is of this machine, has ended; else if it was not refreshed for
    a minute.
    """

    def __init__(self, folder: ObjectFolder) -> None:
        self._folder = folder
        self._token = uuid.uuid4().hex
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        for _ in range(2):
            if self._folder.create(LOCK, self._content()):
                self._beats.start()
                return
            if self._held():
                break
            self._folder.remove(LOCK)
        raise FolderBusy(_busy(self._folder))

    def release(self) -> None:
        self._over.set()
        self._beats.join()
        if self._holder().get("token") == self._token:
            self._folder.remove(LOCK)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a store that is away for a moment; the next beat may pass
                if self._holder().get("token") != self._token:
                    self._folder.lost = True
                    return
                self._folder.write(LOCK, self._content())

    def _content(self) -> bytes:
        process = psutil.Process()
        return json.dumps(
            {
                "token": self._token,
                "machine": socket.gethostname(),
                "process": [process.pid, process.create_time()],
                "heard": time.time(),
            }
        ).encode()

    def _holder(self) -> dict[str, Any]:
        try:
            return json.loads(self._folder.read(LOCK))
        except (FileNotFoundError, ValueError):
            return {}

    def _held(self) -> bool:
        holder = self._holder()
        if not holder:
            return False
        if holder.get("machine") == socket.gethostname():
            pid, started = holder["process"]
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(pid).create_time() == started
            return False
        return time.time() - float(holder.get("heard", 0)) < SILENT_SECONDS


def _busy(folder: Folder) -> str:
    return f"{folder} is being written by another process: wait for it, or stop it"
