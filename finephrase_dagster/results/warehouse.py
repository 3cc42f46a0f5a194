"""The warehouse: one DuckDB file with every manifest of an installation, and tables that are read from them.

Manifests are keyed by the fingerprint and the name of their artifact: recording an artifact twice changes nothing, and
those of earlier recipes are kept. `current` lists the artifacts that each study refers to now. The artifacts on disk
are the source of truth: `record_study` makes the rows of a study from them. `tables.py` lists the tables.

A writer changes a copy of the file and puts it in place of the file. So a person or a program that has the file open
keeps reading the earlier state and never blocks a run.

DuckDB is imported where it is used: the code location, whose objects are frozen, loads without it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.results.tables import READ_ALL, STATEMENTS, VERSION

if TYPE_CHECKING:
    import duckdb

SHORT_SECONDS, WRITER_SECONDS = 2.0, 60.0
"""How long a writer waits for another one before it says so, and then. Writing takes milliseconds, so it hangs."""


Key = tuple[str, str, str]
"""Fingerprint, asset and partition of an artifact."""

CurrentRow = tuple[Key, Mapping[str, Any]]
"""An artifact that a study refers to, and what the study's names for it mean."""


class NoWarehouse(FinephraseError, exit_status=2):
    """There is no warehouse to read."""


class WarehouseBusy(FinephraseError, retryable=True):
    """Another process has been writing the warehouse for too long."""


class UnusablePath(FinephraseError, exit_status=2):
    """DuckDB would look for a part of the warehouse elsewhere."""


@contextmanager
def writing(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to a copy of the warehouse, which replaces the file when the block ends without an error.

    A file that cannot be read is moved to `<name>.damaged`, and a new one is begun.

    Raises:
        WarehouseBusy: another process has held the lock of the writers for a minute.
        UnusablePath: the path has a '?', from which on DuckDB reads it as the query of a URL.
    """
    if "?" in str(path):
        remedy = "Rename the folder, or set FINEPHRASE_DATA to another one"
        raise UnusablePath(f"{path}: the warehouse's path cannot have '?' in it. {remedy}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    try:
        try:
            lock.acquire(timeout=SHORT_SECONDS)
        except Timeout:
            logging.getLogger(__name__).warning(
                f"waiting for the process that is writing {path}: fuser {lock.lock_file}"
            )
            lock.acquire(timeout=WRITER_SECONDS)
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
        # What another program wrote into the file that is replaced; DuckDB would refuse to apply it to the new one.
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
        draft.replace(path)
    finally:
        for unfinished in (draft, draft.with_name(f"{draft.name}.wal")):
            unfinished.unlink(missing_ok=True)
        lock.release()


def _connect_copy(path: Path, draft: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection to a copy of a warehouse, with all tables."""
    import duckdb

    if path.exists():
        shutil.copyfile(path, draft)
        try:
            connection = duckdb.connect(str(draft))
            try:
                _check_version_and_rows(connection)
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


def _check_version_and_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise duckdb.Error for tables of another version, or damaged ones, which DuckDB notices only in reading all."""
    import duckdb

    if connection.execute("SELECT version FROM schema").fetchall() != [(VERSION,)]:
        raise duckdb.Error("it has the tables of another version")
    for query in READ_ALL:
        connection.execute(query).fetchall()


def mark_current(
    connection: duckdb.DuckDBPyConnection, study: str, rows: Iterable[CurrentRow], *, external: bool = False
) -> None:
    """Record which artifacts a study refers to now, in place of those that it referred to before."""
    columns = [list(column) for column in zip(*((*key, json.dumps(names)) for key, names in rows), strict=True)]
    connection.execute("DELETE FROM current WHERE study = ?", [study])
    if columns:
        connection.execute(
            "INSERT INTO current SELECT ?, unnest(?), unnest(?), unnest(?), ?, unnest(?)",
            [study, *columns[:3], external, columns[3]],
        )


def recorded(connection: duckdb.DuckDBPyConnection) -> set[Key]:
    """Return the fingerprint, asset and partition of each recorded manifest."""
    return set(connection.execute("SELECT fingerprint, asset, part FROM manifests").fetchall())


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables that do not exist yet."""
    connection.execute(STATEMENTS)
    connection.execute("INSERT INTO schema SELECT ? WHERE NOT EXISTS (FROM schema)", [VERSION])


def record_manifests(connection: duckdb.DuckDBPyConnection, manifests: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
    """Record manifests by the fingerprint, asset and partition of their artifacts."""
    rows = [(*key, manifest["version"], json.dumps(manifest)) for key, manifest in manifests]
    if rows:  # one statement with columns: one statement per row takes a hundred times as long
        connection.execute(
            "INSERT OR REPLACE INTO manifests (fingerprint, asset, part, version, manifest) "
            "SELECT unnest(?), unnest(?), unnest(?), unnest(?), unnest(?)",
            [list(column) for column in zip(*rows, strict=True)],
        )


def key_of(artifact: Artifact) -> Key:
    """Return the key of an artifact's rows."""
    return artifact.fingerprint, artifact.key.asset, artifact.key.partition or ""


@contextmanager
def reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection that reads the warehouse as it is now.

    Raises:
        NoWarehouse: there is none, or it has the tables of another version.
    """
    import duckdb

    remedy = "Run: finephrase results rebuild"
    if not path.exists():
        raise NoWarehouse(f"the warehouse {path} does not exist. {remedy}")
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        raise NoWarehouse(f"the warehouse {path} cannot be read ({str(error).splitlines()[0]}). {remedy}") from error
    with connection:
        yield connection


def record_verdicts(connection: duckdb.DuckDBPyConnection, study: str, verdicts: Iterable[Mapping[str, Any]]) -> None:
    """Record verdicts in the form of `Verdict.as_json`; the same comparison by the same rule is one row."""
    rows = [
        [
            study,
            *(verdict[name] for name in ("baseline", "mixture", "student", "metric", "verdict", "difference")),
            *(verdict["interval"] or [None, None]),
            verdict["p_value"],
            *(verdict["noise"][name] for name in ("sd", "degrees_of_freedom", "source")),
            *(verdict[name] for name in ("matched", "rule", "inputs")),
            json.dumps(verdict),
        ]
        for verdict in verdicts
    ]
    if rows:
        connection.executemany(
            "INSERT OR REPLACE INTO verdicts (study, baseline, mixture, student, metric, verdict, difference, low, "
            "high, p_value, noise_sd, degrees_of_freedom, noise_source, matched, rule, fingerprint, verdict_json) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
