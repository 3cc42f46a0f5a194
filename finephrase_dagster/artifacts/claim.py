"""Claims: at most one process writes a folder, or computes on a device, at a time.

A claim is a lock on an open file (`flock`, through `filelock`). The kernel removes it when the last process that has
the file open ends, by SIGKILL too. The file itself stays and means nothing without a holder, so a file that was left
behind never blocks anybody. An object store has no such locks; see `rephrase/lock.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from finephrase_dagster.errors import FinephraseError

META = "__meta__"
"""Subfolder for what is not data. Readers of Parquet folders (datasets, pyarrow, DuckDB) skip it."""

LOCK = f"{META}/lock"


class FolderBusy(FinephraseError, retryable=True):
    """Another process writes the folder."""

    def __init__(self, name: object) -> None:
        super().__init__(f"{name} is being written by another process. Wait until that process ends, or stop it.")


@contextlib.contextmanager
def claim_folder(folder: Path, name: object = None) -> Iterator[Path]:
    """Create a folder, hold it for writing, and delete the unfinished files that an earlier writer left.

    Args:
        name: what an error message calls it; default: its path.

    Raises:
        FolderBusy: another process holds it.
    """
    (folder / META).mkdir(parents=True, exist_ok=True)
    lock = lock_file(folder / LOCK)
    if lock is None:
        raise FolderBusy(name or folder)
    with lock:
        for unfinished in folder.rglob("*.partial"):
            unfinished.unlink(missing_ok=True)
        yield folder


@contextlib.contextmanager
def share_folder(folder: Path) -> Iterator[None]:
    """Create a folder and hold it together with others, so that nobody claims it.

    Raises:
        FolderBusy: another process has claimed it.
    """
    (folder / META).mkdir(parents=True, exist_ok=True)
    lock = lock_file(folder / LOCK, shared=True)
    if lock is None:
        raise FolderBusy(folder)
    with lock:
        yield


def lock_file(path: Path, *, mode: int | None = None, shared: bool = False) -> IO[str] | None:
    """Open and lock a file; return None if another process holds the lock.

    Closing the file ends the lock, unless a child process inherited it: then the lock ends with that child.

    Args:
        path: the file, which is created if it does not exist.
        mode: its permissions if it is created, whatever the umask; None: those that the umask leaves. Whoever locks the
            file must be allowed to write it.
        shared: whether other processes may hold shared locks at the same time.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if mode is not None:
            with contextlib.suppress(PermissionError):
                path.chmod(mode)
    file = os.fdopen(descriptor, "r+", encoding="utf-8")
    if _share(descriptor) if shared else lock_descriptor(descriptor, blocking=False):
        return file
    file.close()
    return None


def _share(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
