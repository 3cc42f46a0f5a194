"""The folder of a dataset: files that are written completely or not at all, journals, and one writer at a time.

A file appears under its name when it is complete: on a disk by a rename, in an object store by a finished upload. A
journal keeps each record when the process is killed. An object store cannot append, so there the records are uploaded
together at every `sync`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.artifacts.claim import META, claim_folder, share_folder
from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.errors import FinephraseError

JOURNALS = f"{META}/journals"


class FolderUnusable(FinephraseError, retryable=True):
    """A folder's store cannot be reached, or refuses a request; the message says what to do."""


class Stamp(NamedTuple):
    """The size of a file, and a mark that changes whenever the file is written."""

    bytes: int
    mark: str


class Journal(Protocol):
    """The records of one chunk, in the order in which they were added."""

    def append(self, record: bytes) -> None:
        """Add a record. It survives the end of this process, but not yet of the machine (see `sync`)."""

    def sync(self) -> None:
        """Make the added records survive a power failure; in an object store, upload them."""

    def read(self) -> bytes:
        """Return all records, including those of earlier processes."""

    def close(self) -> None:
        """Close the journal; its records stay."""

    def remove(self) -> None:
        """Delete the journal."""


class Folder(Protocol):
    """The folder of a dataset."""

    def claim(self) -> contextlib.AbstractContextManager[None]:
        """Create the folder and hold it for writing; raise FolderBusy if another process holds it."""

    def share(self) -> contextlib.AbstractContextManager[None]:
        """Create the folder and hold it together with others; raise FolderBusy if a process holds it alone."""

    def names(self, pattern: str) -> list[str]:
        """Return the files whose path in the folder matches a pattern, sorted."""

    def stamps(self, names: Sequence[str]) -> dict[str, Stamp]:
        """Return the stamps of files, of those that exist."""

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file; raise FileNotFoundError if there is none."""

    def folders(self) -> list[str]:
        """Return the names of the folders directly in this one, sorted."""

    def read(self, name: str) -> bytes:
        """Return a file's content; raise FileNotFoundError if there is none."""

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Return the contents of several files; raise FileNotFoundError if one does not exist."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, completely or not at all."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that does not exist; return False, and leave it alone, if it exists with other content."""

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""

    def remove_all(self, names: Sequence[str]) -> None:
        """Delete files, those that exist."""

    def journals(self) -> list[str]:
        """Return the names of the existing journals, sorted."""

    def journal(self, name: str) -> Journal:
        """Open a journal, new or as an earlier process left it."""

    def below(self, name: str) -> Folder:
        """Return a folder below this one."""

    def take(self, other: Folder, name: str) -> None:
        """Move a file here from a folder below; do nothing if that was done before."""

    def clear(self) -> None:
        """Delete the folder and everything in it."""


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a local file. The time of change reveals an edit whose author set the other times back."""
    status = path.stat()
    return Stamp(status.st_size, f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}")


class LocalFolder:
    """A folder on a local disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        with claim_folder(self.path):
            (self.path / JOURNALS).mkdir(exist_ok=True)
            yield

    def share(self) -> contextlib.AbstractContextManager[None]:
        return share_folder(self.path)

    def names(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.glob(pattern) if path.is_file())

    def stamps(self, names: Sequence[str]) -> dict[str, Stamp]:
        stamps = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                stamps[name] = stamp_of(self.path / name)
        return stamps

    def sha256(self, name: str) -> str:
        return sha256_file(self.path / name)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.path.glob("*") if path.is_dir())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        return [self.read(name) for name in names]

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)

    def create(self, name: str, content: bytes) -> bool:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_write(path, once=True) as temporary:
                temporary.write_bytes(content)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return path.read_bytes() == content
            return False
        return True

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_all(self, names: Sequence[str]) -> None:
        for name in names:
            self.remove(name)

    def journals(self) -> list[str]:
        return [name.removeprefix(f"{JOURNALS}/") for name in self.names(f"{JOURNALS}/*")]

    def journal(self, name: str) -> Journal:
        return _LocalJournal(self.path / JOURNALS / name)

    def below(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def take(self, other: Folder, name: str) -> None:
        assert isinstance(other, LocalFolder), other
        with contextlib.suppress(FileNotFoundError):
            (other.path / name).rename(self.path / name)

    def clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class _LocalJournal:
    """A file; each record is one `write`, which the system keeps when the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def append(self, record: bytes) -> None:
        if os.write(self._file, record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def sync(self) -> None:
        file = self._file
        if file >= 0:
            try:
                os.fdatasync(file)
            except OSError as error:
                if error.errno != errno.EBADF:  # closed in the meantime
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
