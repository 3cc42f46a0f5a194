"""Finds the folder that a path or a URL names."""

from __future__ import annotations

from pathlib import Path

from finephrase_dagster.artifacts.folder import Folder, LocalFolder
from finephrase_dagster.errors import FinephraseError


class LocationInvalid(FinephraseError, exit_status=2):
    """A path or URL cannot be a folder."""


def folder_at(location: str | Path) -> Folder:
    """Return the folder of a path, or of a URL such as `s3://bucket/dataset` (any scheme that fsspec knows).

    Raises:
        LocationInvalid: the URL's scheme is unknown or needs a package, or the path is a file or below one.
    """
    text = str(location).removeprefix("file://")
    if "://" not in text:
        path = Path(text)
        existing = next((parent for parent in (path, *path.parents) if parent.exists()), path)
        if existing.is_file():
            raise LocationInvalid(f"{text}: {existing} is a file; name a folder.")
        return LocalFolder(path)
    from finephrase_dagster.rephrase.object_folder import ObjectFolder  # imports fsspec, which is slow

    try:
        return ObjectFolder(text)
    except (ValueError, ImportError, OSError) as error:
        raise LocationInvalid(f"{text}: {error}. Use a path, or a URL such as s3://bucket/folder.") from error
