"""The folder of a dataset, on a local disk or in an object store: whole files, journals, and one writer.

Files appear under their names whole or not at all: on a disk by a rename, in an object store by a finished
upload. A journal takes records one by one and keeps them when the process is killed; an object store knows
no appending, so there records are uploaded together, at every `sync`. What is written is the ledger's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from finephrase_dagster.artifacts.artifact import META, atomic_write
from finephrase_dagster.artifacts.claim import claim_folder
from finephrase_dagster.errors import FinephraseError

JOURNALS = f"{META}/journals"


class FolderUnusable(FinephraseError, retryable=True):
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

    def folders(self) -> list[str]:
        """Return the names of the folders directly in this one, sorted."""

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

    def below(self, name: str) -> Folder:
        """A folder in this one."""

    def take(self, other: Folder, name: str) -> None:
        """Moves a file here from a folder below; does nothing if that was done."""

    def clear(self) -> None:
        """Deletes the folder and all in it."""


def folder_at(place: str | Path) -> Folder:
    """The folder of a path, or of a URL such as `s3://bucket/dataset` (any scheme that fsspec knows).

    Raises:
        ValueError: nothing here reads such a URL, or it is a file, or in one.
    """
    text = str(place).removeprefix("file://")
    if "://" not in text:
        path = Path(text)
        there = next((one for one in (path, *path.parents) if one.exists()), path)
        if there.is_file():
            raise ValueError(f"{text}: {there} is a file; name a folder")
        return LocalFolder(path)
    from finephrase_dagster.rephrase.object_folder import ObjectFolder

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
        with claim_folder(self.path):
            (self.path / JOURNALS).mkdir(exist_ok=True)
            yield

    def names(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.glob(pattern) if path.is_file())

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.path.glob("*") if path.is_dir())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

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
