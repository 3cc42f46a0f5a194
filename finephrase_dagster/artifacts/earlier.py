"""Earlier datasets: complete ones whose requests, row by row, are those of a dataset that is still to be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import FOLDERS, Artifact, labelled_manifest
from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.key import DATASET

ROW_CHOICE = ("rows", "requires", "eligibility")
"""The fields of a dataset's recipe that decide which rows are sent, but change no request."""


class EarlierDatasets:
    """The complete synthetic datasets of a data folder, by what determines their requests."""

    def __init__(self, data: Path) -> None:
        """Read their manifests."""
        self._found: dict[str, dict[str, int]] = {}
        for folder in sorted(data.glob(f"{FOLDERS}/{DATASET.code}/*")):
            manifest = labelled_manifest(folder)  # None: deleted in the meantime, or damaged: its rows are sent
            if manifest and isinstance(completed := manifest.get("completed"), int):
                self._found.setdefault(_request_fingerprint(manifest["recipe"]), {})[str(folder)] = completed

    def of(self, artifact: Artifact) -> dict[str, int]:
        """Return the other datasets whose recipe differs in the choice of rows only: by folder, their completions."""
        found = self._found.get(_request_fingerprint(artifact.recipe), {})
        return {folder: completed for folder, completed in found.items() if folder != str(artifact.folder)}


def _request_fingerprint(recipe: Mapping[str, Any]) -> str:
    return fingerprint({name: value for name, value in recipe.items() if name not in ROW_CHOICE})
