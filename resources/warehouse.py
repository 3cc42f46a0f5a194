"""The warehouse as a resource: one DuckDB file, opened for the moment of a reading or a writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.results.warehouse import create_tables, record_manifests


class Warehouse(dg.ConfigurableResource):
    """Scores, audits and manifests in one DuckDB file."""

    database: str = Field(description="path of the DuckDB file; its folder is made")

    @contextlib.contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with all tables; waits while another process holds the file."""
        Path(self.database).parent.mkdir(parents=True, exist_ok=True)
        with DuckDBResource(database=self.database).get_connection() as connection:
            create_tables(connection)
            yield connection

    def record(self, *artifacts: Artifact) -> None:
        """Records the manifests of complete artifacts."""
        with self.connect() as connection:
            record_manifests(connection, artifacts)
