"""The warehouse as a resource: one DuckDB file, open only while something is read or written."""

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

    database: str = Field(description="path of the DuckDB file; its folder is created")

    @contextlib.contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection to the database with all tables; wait while another process uses the file."""
        Path(self.database).parent.mkdir(parents=True, exist_ok=True)
        with DuckDBResource(database=self.database).get_connection() as connection:
            create_tables(connection)
            yield connection

    def record(self, *artifacts: Artifact) -> None:
        """Record the manifests of complete artifacts."""
        with self.connect() as connection:
            record_manifests(connection, artifacts)
