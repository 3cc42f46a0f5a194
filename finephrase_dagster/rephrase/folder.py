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
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import fsspec

from finephrase_dagster.study.artifact import whole_file

LOCK = ".lock"
JOURNALS = ".journal"
FIRST = "00000"
BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # a holder of the lock that was not heard of for this long is taken for dead


class FolderBusy(RuntimeError):
    """Another process writes this folder."""


class FolderUnusable(RuntimeError):
    """The store of a folder cannot be reached, or refuses what it was asked; the message says what to do."""


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
    """A prefix of an object store, through fsspec; credentials and endpoint come from the environment.

    What the store's library raises becomes FolderUnusable, but for a file that is not there.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store, self._root = fsspec.core.url_to_fs(self.url)
        self._lock: _Lock | None = None

    def __str__(self) -> str:
        return self.url

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        lock = self._lock = _Lock(self)
        lock.take()
        try:
            journals = set(self.journals())
            names = self.names(f"{JOURNALS}/*")
            self.remove_all([name for name in names if _journal_of(name) not in journals])
            yield
        finally:
            lock.release()

    def names(self, pattern: str) -> list[str]:
        directory, slash, _ = pattern.rpartition("/")
        self._store.invalidate_cache()
        found: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError), self._asking(FileNotFoundError):
            found = self._store.ls(f"{self._root}{slash}{directory}", detail=True)
        names = [entry["name"].removeprefix(f"{self._root}/") for entry in found if entry["type"] == "file"]
        return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern) and not name.endswith("/"))

    def read(self, name: str) -> bytes:
        with self._asking(FileNotFoundError):
            return self._store.cat_file(f"{self._root}/{name}")

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Several files' contents, fetched at once."""
        with self._asking(FileNotFoundError):
            found = self._store.cat([f"{self._root}/{name}" for name in names]) if names else {}
        return list(found.values())

    def write(self, name: str, content: bytes) -> None:
        self._check()
        self.put(name, content)

    def put(self, name: str, content: bytes, mode: Literal["overwrite", "create"] = "overwrite") -> None:
        """Writes a file without asking who holds the folder; with `create`, raises FileExistsError if it is there."""
        with self._asking(FileExistsError):
            self._store.pipe_file(f"{self._root}/{name}", content, mode=mode)

    def remove(self, name: str) -> None:
        self.remove_all([name])

    def remove_all(self, names: Sequence[str]) -> None:
        """Deletes files, those that are there, at once."""
        self._check()
        self.take_away(names)

    def take_away(self, names: Sequence[str]) -> None:
        """Deletes files without asking who holds the folder."""
        if names:
            with contextlib.suppress(FileNotFoundError), self._asking(FileNotFoundError):
                self._store.rm([f"{self._root}/{name}" for name in names])

    def journals(self) -> list[str]:
        # Its first segment is removed first: what has none was being removed, and is in a file.
        return [_journal_of(name) for name in self.names(f"{JOURNALS}/*.{FIRST}")]

    def journal(self, name: str) -> Journal:
        return _ObjectJournal(self, f"{JOURNALS}/{name}")

    def _check(self) -> None:
        if self._lock:
            self._lock.check()

    @contextlib.contextmanager
    def _asking(self, *expected: type[Exception]) -> Iterator[None]:
        try:
            yield
        except expected:
            raise
        except Exception as error:  # each store's library has errors of its own
            raise FolderUnusable(
                f"{self}: {error}; see that the store answers, has this bucket and lets you in, then run again: what "
                "is finished is kept"
            ) from error


class _ObjectJournal:
    """Numbered objects `<name>.00000`, each with the records between two calls of `sync`."""

    def __init__(self, folder: ObjectFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._written: list[str] = []
        self._all = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the journal
        self._pending: list[bytes] = []
        self._turn = threading.Lock()

    @cached_property
    def _earlier(self) -> list[str]:
        return self._folder.names(f"{self._name}.*")

    def append(self, record: bytes) -> None:
        self._pending.append(record)
        self._all.write(record)

    def sync(self) -> None:
        with self._turn:
            if count := len(self._pending):
                segment = f"{self._name}.{len(self._earlier) + len(self._written):05d}"
                self._folder.write(segment, b"".join(self._pending[:count]))
                self._written.append(segment)
                del self._pending[:count]  # more may have been added meanwhile

    def read(self) -> bytes:
        earlier = self._folder.read_all(self._earlier)
        self._all.seek(0)
        return b"".join(earlier) + self._all.read()

    def close(self) -> None:
        self.sync()
        self._all.close()

    def remove(self) -> None:
        with self._turn:
            self._pending.clear()
            segments = [*self._earlier, *self._written]
            self._folder.remove_all(segments[:1])
            self._folder.remove_all(segments[1:])
            self._all.close()


class _Lock:
    """One writer of a prefix: an object that only its creator refreshes.

    A lock is dead if its process, where it is of this machine, has ended; else if it was not refreshed for
    a minute.
    """

    def __init__(self, folder: ObjectFolder) -> None:
        self._folder = folder
        self._token = uuid.uuid4().hex
        self._lost = False
        self._heard = time.time()
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Raises FolderBusy if another process holds it."""
        holder = self._holder()
        if holder is not None:
            if _lives(holder):
                raise FolderBusy(_busy(self._folder))
            self._folder.take_away([LOCK])
        try:
            self._folder.put(LOCK, self._content(), mode="create")
        except FileExistsError as error:
            if not self._mine():  # it is where a first try was heard, but its answer was lost
                raise FolderBusy(_busy(self._folder)) from error
        self._beats.start()

    def check(self) -> None:
        """Raises FolderBusy if another process took it over, for this one was not heard of."""
        if not self._lost and time.time() - self._heard > SILENT_SECONDS / 2:
            self._refresh()
        if self._lost:
            raise FolderBusy(_busy(self._folder))

    def release(self) -> None:
        self._over.set()
        self._beats.join()
        with contextlib.suppress(FolderUnusable):  # then it is dead, as this process will be
            if self._mine():
                self._folder.take_away([LOCK])

    def _beat(self) -> None:
        while not self._lost and not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(FolderUnusable):  # a store that is away for a moment; the next beat may pass
                self._refresh()

    def _refresh(self) -> None:
        if self._mine():
            self._folder.put(LOCK, self._content())
            self._heard = time.time()
        else:
            self._lost = True

    def _content(self) -> bytes:
        pid = os.getpid()
        return json.dumps(
            {"token": self._token, "machine": machine(), "process": [pid, _began(pid)], "heard": time.time()}
        ).encode()

    def _mine(self) -> bool:
        return (self._holder() or {}).get("token") == self._token

    def _holder(self) -> dict[str, Any] | None:
        """What the lock says; None if there is none."""
        try:
            return dict(json.loads(self._folder.read(LOCK)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return {}


def machine() -> str:
    """This machine, as long as it runs; a container that counts its processes by itself is one of its own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"


def _lives(holder: dict[str, Any]) -> bool:
    if holder.get("machine") == machine():
        pid, began = holder["process"]
        return _began(pid) == began
    return time.time() - float(holder.get("heard", 0)) < SILENT_SECONDS


def _began(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's count since its start; None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def _journal_of(name: str) -> str:
    return name.removeprefix(f"{JOURNALS}/").rpartition(".")[0]


def _busy(folder: Folder) -> str:
    return f"{folder} is being written by another process: wait for it, or stop it"
