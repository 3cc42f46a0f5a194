"""The warehouse: one DuckDB file with every manifest, audit and score of an installation.

Rows are keyed by the fingerprint and the name of the artifact that they describe: recording an artifact twice changes
nothing, and rows of earlier recipes are kept. Queries name the fingerprints that they need. The artifacts on disk
are the source of truth; the warehouse can be rebuilt from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.audit.audit import GateResult
from finephrase_dagster.study.student import StudentRun

_TABLES = """
CREATE TABLE IF NOT EXISTS manifests (
    fingerprint VARCHAR, asset VARCHAR, part VARCHAR, version VARCHAR, manifest JSON,
    recorded_at TIMESTAMP DEFAULT current_timestamp, PRIMARY KEY (fingerprint, asset, part));
CREATE TABLE IF NOT EXISTS audits (
    fingerprint VARCHAR, cell VARCHAR, prompt VARCHAR, gate VARCHAR, value DOUBLE, threshold DOUBLE,
    passed BOOLEAN, PRIMARY KEY (fingerprint, cell, prompt, gate));
CREATE TABLE IF NOT EXISTS scores (
    fingerprint VARCHAR, run VARCHAR, mixture VARCHAR, student VARCHAR, data_seed INTEGER,
    model_seed INTEGER, kind VARCHAR, name VARCHAR, score DOUBLE, items INTEGER,
    PRIMARY KEY (fingerprint, run, kind, name));
ALTER TABLE scores ADD COLUMN IF NOT EXISTS decay_from VARCHAR;
"""


_NO_MEANS: dict[str, float | None] = {"macro": None, "macro_sd": None, "micro": None}


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables that do not exist yet."""
    connection.execute(_TABLES)


def record_manifests(connection: duckdb.DuckDBPyConnection, artifacts: Iterable[Artifact]) -> None:
    """Record the manifests of complete artifacts."""
    rows = [
        (
            artifact.fingerprint,
            artifact.key.asset,
            artifact.key.partition or "",
            manifest["version"],
            json.dumps(manifest),
        )
        for artifact, manifest in ((artifact, artifact.manifest()) for artifact in artifacts)
    ]
    if rows:  # one statement with columns: one statement per row takes a hundred times as long
        connection.execute(
            "INSERT OR REPLACE INTO manifests (fingerprint, asset, part, version, manifest) "
            "SELECT unnest(?), unnest(?), unnest(?), unnest(?), unnest(?)",
            [list(column) for column in zip(*rows, strict=True)],
        )


def record_audit(
    connection: duckdb.DuckDBPyConnection, artifact: Artifact, cell: str, results: Iterable[GateResult]
) -> None:
    """Record the result of each gate for a synthetic dataset."""
    connection.executemany(
        "INSERT OR REPLACE INTO audits VALUES (?, ?, ?, ?, ?, ?, ?)",
        [[artifact.fingerprint, cell, artifact.key.prompt, r.name, r.value, r.threshold, r.passed] for r in results],
    )


def record_scores(
    connection: duckdb.DuckDBPyConnection,
    artifact: Artifact,
    run: StudentRun,
    *,
    tasks: Mapping[str, tuple[float, int]],
    categories: Mapping[str, float],
    micro: float | None,
    macro: float | None,
) -> None:
    """Record a student run's scores: per task with its number of items, per category, and the means."""
    rows: list[tuple[str, str, float, int | None]] = [
        *(("task", task, score, items) for task, (score, items) in tasks.items()),
        *(("category", category, score, None) for category, score in categories.items()),
        *(("mean", name, mean, None) for name, mean in (("micro", micro), ("macro", macro)) if mean is not None),
    ]
    connection.executemany(
        "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            [
                artifact.fingerprint,
                run.name,
                run.mixture,
                run.student,
                run.seeds.data,
                run.seeds.model,
                kind,
                name,
                score,
                items,
                run.decay_from,
            ]
            for kind, name, score, items in rows
        ],
    )


def leaderboard(connection: duckdb.DuckDBPyConnection, scores: Iterable[Artifact]) -> list[dict[str, Any]]:
    """Return the mean scores per mixture, student and variant, best macro score first, then by micro score.

    Args:
        scores: the artifacts of benchmark scores that count.

    Returns:
        One row per mixture, student and variant: `mixture`, `student`, `decay_from` (None: trained from scratch),
        `seeds` (number of student runs), `macro` and its sample standard deviation over seeds `macro_sd` (None for one
        seed), `micro`, `categories`, and `tasks`. `macro` is None where tasks are missing.
    """
    keys = [f"{artifact.fingerprint} {artifact.key.run}" for artifact in scores]
    records = connection.execute(
        """
        WITH per_name AS (
            SELECT mixture, student, decay_from, kind, name,
                avg(score) AS score, stddev_samp(score) AS sd, count(*) AS seeds
            FROM scores WHERE list_contains(?, fingerprint || ' ' || run) GROUP BY ALL)
        SELECT mixture, student, decay_from, kind, name, score, sd, seeds FROM per_name
        ORDER BY mixture, student, decay_from NULLS FIRST, kind, name
        """,
        [keys],
    ).fetchall()
    rows: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for mixture, student, decay_from, kind, name, score, sd, seeds in records:
        key = {"mixture": mixture, "student": student, "decay_from": decay_from}
        row = rows.setdefault(
            (mixture, student, decay_from), {**key, "seeds": seeds, **_NO_MEANS, "categories": {}, "tasks": {}}
        )
        if kind == "mean":
            row[name] = score
            if name == "macro":
                row["macro_sd"] = sd
        else:
            row["categories" if kind == "category" else "tasks"][name] = score
    return sorted(rows.values(), key=lambda row: (-(row["macro"] or 0.0), -(row["micro"] or 0.0), row["mixture"]))
