"""Aliases: paths that no library reads as a pattern."""

from __future__ import annotations

import atexit
import glob
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def plain_path(folder: Path) -> Path:
    """Return a path to a folder without `*`, `?` and `[`, because vLLM looks for a model's files by a glob pattern.

    A path that has them is replaced by a link in a temporary folder, which is deleted when this process ends.
    """
    if glob.escape(str(folder)) == str(folder):
        return folder
    links = tempfile.mkdtemp(prefix="finephrase-alias-")
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    link = Path(links, "model")
    link.symlink_to(folder.absolute(), target_is_directory=True)
    return link
