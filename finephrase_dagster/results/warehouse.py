"""The warehouse: one DuckDB file with every manifest, audit and score of an installation.

Rows are keyed by the fingerprint and the name of the artifact that they describe: recording an artifact twice changes
nothing, and rows of earlier recipes are kept. The table `current` lists the artifacts that each study refers to now;
the views `current_scores` and `current_audits` show only their rows. The artifacts on disk are the source of truth, and
`record_study` rebuilds the rows of a study from them.

A writer changes a copy of the file and puts it in place of the file. So a person or a program that has the file open
keeps reading the earlier state and never blocks a run.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from filelock import FileLock, Timeout

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.errors import FinephraseError
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
CREATE TABLE IF NOT EXISTS current (
    study VARCHAR, fingerprint VARCHAR, asset VARCHAR, part VARCHAR, PRIMARY KEY (study, asset, part));
CREATE VIEW IF NOT EXISTS current_scores AS
    SELECT current.study, scores.* FROM scores JOIN current ON scores.fingerprint = current.fingerprint
        AND current.asset = 'evaluation/benchmark_scores' AND scores.run = current.part;
CREATE VIEW IF NOT EXISTS current_audits AS
    SELECT current.study, audits.* FROM audits JOIN current ON audits.fingerprint = current.fingerprint
        AND current.asset = 'audits/' || audits.cell || '_audit' AND audits.prompt = current.part;
"""

WRITER_SECONDS = 60.0
"""How long a writer waits for another one. Writing takes milliseconds, so the other one hangs."""


class WarehouseBusy(FinephraseError, retryable=True):
    """Another process has been writing the warehouse for too long."""


_NO_MEANS: dict[str, float | None] = {"macro": None, "macro_sd": None, "micro": None}


@contextmanager
def writing(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to a copy of the warehouse, which replaces the file when the block ends without an error.

    A file that cannot be read is moved to `<name>.damaged`, and a new one is begun.

    Raises:
        WarehouseBusy: another process has held the lock of the writers for a minute.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock", timeout=WRITER_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise WarehouseBusy(
            f"another process has been writing {path} for more than {WRITER_SECONDS:.0f} s. Find it with "
            f"`fuser {lock.lock_file}`, and end it if it hangs."
        ) from error
    draft = path.with_name(f"{path.name}.draft")
    try:
        connection = _connect_copy(path, draft)
        with connection:
            yield connection
        draft.replace(path)
    finally:
        for unfinished in (draft, draft.with_name(f"{draft.name}.wal")):
            unfinished.unlink(missing_ok=True)
        lock.release()


def _connect_copy(path: Path, draft: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection to a copy of a warehouse, with all tables."""
    if path.exists():
        shutil.copyfile(path, draft)
        try:
            connection = duckdb.connect(str(draft))
            try:
                create_tables(connection)
                _read_all(connection)
            except BaseException:
                connection.close()
                raise
            return connection
        except duckdb.Error as error:
            damaged = path.with_name(f"{path.name}.damaged")
            path.replace(damaged)
            draft.unlink(missing_ok=True)
            reason = next(iter(str(error).splitlines()), "")[:200]
            logging.getLogger(__name__).warning(
                "%s cannot be read (%s). It is now %s, and a new one is begun; `finephrase results rebuild` fills it "
                "from the artifacts of a study.", path, reason, damaged.name,
            )  # fmt: skip
    connection = duckdb.connect(str(draft))
    create_tables(connection)
    return connection


def _read_all(connection: duckdb.DuckDBPyConnection) -> None:
    """Read every row, because DuckDB notices a damaged block only then."""
    for query in (
        "SELECT bit_xor(hash(manifests)) FROM manifests",
        "SELECT bit_xor(hash(audits)) FROM audits",
        "SELECT bit_xor(hash(scores)) FROM scores",
        "SELECT bit_xor(hash(current)) FROM current",
    ):
        connection.execute(query).fetchall()


def mark_current(connection: duckdb.DuckDBPyConnection, study: str, artifacts: Iterable[Artifact]) -> None:
    """Record which artifacts a study refers to now, in place of those that it referred to before."""
    rows = [(study, artifact.fingerprint, artifact.key.asset, artifact.key.partition or "") for artifact in artifacts]
    connection.execute("DELETE FROM current WHERE study = ?", [study])
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        connection.execute("INSERT INTO current SELECT unnest(?), unnest(?), unnest(?), unnest(?)", columns)


def recorded(connection: duckdb.DuckDBPyConnection) -> set[tuple[str, str, str]]:
    """Return the fingerprint, asset and partition of each recorded manifest."""
    return set(connection.execute("SELECT fingerprint, asset, part FROM manifests").fetchall())


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


def record_audit(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> None:
    """Record the result of each gate for a synthetic dataset."""
    cell = f"{artifact.key.generator}__{artifact.key.source}"
    results = artifact.manifest()["gates"]
    connection.executemany(
        "INSERT OR REPLACE INTO audits VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            [
                artifact.fingerprint,
                cell,
                artifact.key.prompt,
                gate["name"],
                gate["value"],
                gate["threshold"],
                gate["passed"],
            ]
            for gate in results
        ],
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
