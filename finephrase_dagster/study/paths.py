"""Paths: where an installation keeps its files. None of this is identity."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The folders of an installation.

    Attributes:
        data: all artifacts, the warehouse and the tracking store (`FINEPHRASE_DATA`, default `data/`).
        study: the study file (`FINEPHRASE_STUDY`, default `studies/demo.yaml`).
        prompts: the folder of prompt files.
        requirements: the resolved list that the embedded corpus `package_readmes` is read from.
        items: the embedded benchmark items.
    """

    data: Path
    study: Path
    prompts: Path = REPOSITORY / "prompts"
    requirements: Path = REPOSITORY / "requirements" / "cpu.txt"
    items: Path = REPOSITORY / "finephrase_dagster" / "evaluate" / "items"

    @classmethod
    def from_environment(cls) -> Paths:
        """The paths that the environment names; relative paths start at the repository."""
        return cls(
            data=REPOSITORY / (os.environ.get("FINEPHRASE_DATA") or "data"),
            study=REPOSITORY / (os.environ.get("FINEPHRASE_STUDY") or "studies/demo.yaml"),
        )

    @property
    def warehouse(self) -> Path:
        """The DuckDB file of scores, audits and manifests."""
        return self.data / "warehouse.duckdb"

    @property
    def tracking_store(self) -> Path:
        """MLflow's SQLite file, used unless `MLFLOW_TRACKING_URI` names a server."""
        return self.data / "mlflow" / "mlflow.db"
