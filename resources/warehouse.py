"""The warehouse as a resource: one DuckDB file, which nobody who reads it blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.results.warehouse import key_of, record_manifests, writing

if TYPE_CHECKING:
    import duckdb


class Warehouse(dg.ConfigurableResource):
    """Scores, audits and manifests in one DuckDB file."""

    database: str = Field(description="path of the DuckDB file; its folder is created")

    @contextlib.contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection to a copy of the database, which replaces the file when the block ends."""
        with writing(Path(self.database)) as connection:
            yield connection

    def record(self, *artifacts: Artifact) -> None:
        """Record the manifests of complete artifacts."""
        with self.connect() as connection:
            record_manifests(connection, ((key_of(artifact), artifact.manifest()) for artifact in artifacts))
