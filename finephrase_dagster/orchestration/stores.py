"""Stores: where Dagster and MLflow keep their state, in SQLite files or in PostgreSQL databases.

The settings in `DAGSTER_HOME` name Dagster's store, `MLFLOW_TRACKING_URI` names MLflow's. libpq finds host, user and
password of a PostgreSQL server (`PGHOST`, `PGUSER`, `PGPASSWORD`, `~/.pgpass`), so no URL needs to contain a secret.
A password in a URL is never printed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.connection import fetch
from finephrase_dagster.study.loader import InvalidYaml, load_yaml, read_bounded
from finephrase_dagster.study.paths import Paths

if TYPE_CHECKING:
    import dagster as dg

TRACKING_URI = "MLFLOW_TRACKING_URI"
DRIVER = "postgresql+psycopg2"
SQLITE_FILES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
"""Dagster's files in `DAGSTER_HOME`, unless its settings name other ones."""
CONNECT_SECONDS = 10
LOCK = 0x66696E65  # any number that no other application locks

_POSTGRES = re.compile(r"^postgres(ql)?(\+psycopg2)?:", re.IGNORECASE)
_SERVER = re.compile(r"^https?:", re.IGNORECASE)


class InvalidStore(FinephraseError, exit_status=2):
    """The address of a store is invalid; the message names the variable and the right form."""


class StoreUnusable(FinephraseError):
    """A store does not answer or refuses access; the message says what to check."""


def tracking_uri(paths: Paths) -> str:
    """Return the URI of MLflow's store: `MLFLOW_TRACKING_URI`, else a SQLite file.

    Raises:
        InvalidStore: the variable has an invalid value.
    """
    uri = os.environ.get(TRACKING_URI)
    if not uri:
        _refuse_path(paths.data, "FINEPHRASE_DATA")
        return f"sqlite:///{paths.tracking_store}"
    if is_server(uri) and "@" in uri:
        raise InvalidStore(
            f"{TRACKING_URI} contains a user or a password, which links would show. Write http://HOST:PORT, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if is_postgres(uri):
        _database(with_driver(uri), TRACKING_URI)
    elif uri.startswith("sqlite:"):
        _refuse_path(uri, TRACKING_URI)
    return with_driver(uri)


def is_server(uri: str) -> bool:
    """Return whether a tracking URI names an MLflow server."""
    return bool(_SERVER.match(uri))


def is_postgres(uri: str) -> bool:
    """Return whether a URI names a PostgreSQL database."""
    return bool(_POSTGRES.match(uri))


def with_driver(uri: str) -> str:
    """Return a PostgreSQL URI with the installed driver; any other URI unchanged."""
    return _POSTGRES.sub(f"{DRIVER}:", uri)


def bypass_proxies(uri: str) -> None:
    """Keep MLflow's client, which reads proxies from the environment, from using one: no other client here does."""
    host = urlsplit(uri).hostname or ""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [one for one in os.environ.get(name, "").split(",") if one]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, host]))


def printable(uri: str) -> str:
    """Return a URI without secrets: for a PostgreSQL database, its name alone."""
    return f"{DRIVER}:///{_database(with_driver(uri), TRACKING_URI).database}" if is_postgres(uri) else uri


def refuse_unusable(paths: Paths, dagster_home: Path) -> None:
    """Check that every store that is not a file answers, and set damaged files aside.

    Raises:
        InvalidStore: the address of a store is invalid.
        StoreUnusable: a store does not answer.
    """
    tracking = tracking_uri(paths)
    settings = dagster_home / "dagster.yaml"
    _refuse_path(dagster_home, "DAGSTER_HOME", "%?*[")  # Dagster looks for its settings by a glob pattern
    if (dagster := _dagster_uri(settings)) is not None:
        _refuse_unusable_database(dagster, str(settings))
    else:
        for name in SQLITE_FILES:
            _set_aside_if_damaged(dagster_home / name)
    if is_postgres(tracking):
        _refuse_unusable_database(tracking, TRACKING_URI)
    elif is_server(tracking):
        _refuse_unusable_server(tracking)
    elif not os.environ.get(TRACKING_URI):
        _set_aside_if_damaged(paths.tracking_store)


def open_instance(dagster_home: Path) -> dg.DagsterInstance:
    """Open Dagster's stores, and create those that are missing; processes that do so at once run into each other.

    What steps print is not captured: that takes four processes per step, which end with a stack trace on Ctrl-C.
    """
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

    lock = os.open(dagster_home, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(dagster_home), overrides={"compute_logs": NOTHING}))
    finally:
        os.close(lock)


NOTHING = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}


@contextmanager
def exclusive(uri: str) -> Iterator[None]:
    """Keep other processes out of such a block for the same PostgreSQL database."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(with_driver(uri))
    try:
        with engine.connect() as connection:  # closing it releases the lock
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
            yield
    finally:
        engine.dispose()


def server_failure(error: BaseException | None) -> str | None:
    """Return the message of the PostgreSQL server's failure that caused an error, in one line; None if none did."""
    from sqlalchemy.exc import DBAPIError

    while error is not None:
        if isinstance(error, DBAPIError) and type(error.orig).__module__.startswith("psycopg2"):
            return " ".join(str(error.orig).split())
        error = error.__cause__ or error.__context__
    return None


def _refuse_path(folder: Path | str, variable: str, signs: str = "%?") -> None:
    """Refuse a folder whose SQLite files Dagster and MLflow would look for elsewhere: they write its path into URLs."""
    if found := [sign for sign in signs if sign in str(folder)]:
        raise InvalidStore(
            f"{variable} is {folder}: a folder of databases cannot have {found[0]!r} in its path. "
            f"Rename the folder, or set {variable} to another one."
        )


def _dagster_uri(settings: Path) -> str | None:
    """Return the URI of Dagster's PostgreSQL database; None if its settings name none."""
    try:
        fields = load_yaml(read_bounded(settings))
    except (OSError, ValueError, InvalidYaml) as error:
        raise InvalidStore(f"{settings} cannot be read: {error}") from error
    storage = fields.get("storage") if isinstance(fields, Mapping) else None
    postgres = storage.get("postgres") if isinstance(storage, Mapping) else None
    if not isinstance(postgres, Mapping):
        return None
    from dagster_postgres.utils import pg_url_from_config

    database = postgres.get("postgres_db")
    named = {"postgres_db": _from_environment(database, settings)} if isinstance(database, Mapping) else {}
    return pg_url_from_config({**_from_environment(postgres, settings), **named})


def _from_environment(fields: Mapping[str, Any], settings: Path) -> dict[str, Any]:
    """Return the fields with the values of the environment variables that they name."""
    values = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and set(value) == {"env"}:
            if value["env"] not in os.environ:
                raise InvalidStore(
                    f"{settings}: storage.postgres: {name} is in {value['env']}, which is not set; set it"
                )
            value = os.environ[value["env"]]
        values[name] = value
    return values


def _database(uri: str, named_by: str) -> Any:
    """Return a PostgreSQL URI as SQLAlchemy's URL; raise InvalidStore if it cannot be used."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    invalid = f"{named_by} is not a database URI. Write {DRIVER}:///DATABASE and set PGHOST, PGUSER and PGPASSWORD"
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError) as error:
        raise InvalidStore(invalid) from error.with_traceback(None)
    if "@" in (url.host or "") or not url.database:
        raise InvalidStore(f"{invalid}; percent-encode a password in it (%40 for @)")
    if url.drivername != DRIVER:
        raise InvalidStore(f"{named_by}: no driver for the scheme {url.drivername} is installed. Write {DRIVER}://")
    return url


def _set_aside_if_damaged(path: Path) -> None:
    """Rename a SQLite file that cannot be read, so that a new one is begun."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:  # locked, for example
        return
    except sqlite3.DatabaseError as error:
        for suffix in ("-wal", "-shm", "-journal"):  # they would be applied to the new file, and may repair this one
            with suppress(FileNotFoundError):
                path.with_name(f"{path.name}{suffix}").rename(path.with_name(f"{path.name}.damaged{suffix}"))
        damaged = path.replace(path.with_name(f"{path.name}.damaged"))
        logging.getLogger(__name__).warning(
            "%s cannot be read (%s). It is now %s, and a new one is begun; `finephrase materialize` records in it "
            "what there is.", path, error, damaged.name,
        )  # fmt: skip


def _refuse_unusable_database(uri: str, named_by: str) -> None:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    url = _database(uri, named_by)
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": CONNECT_SECONDS})
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
        raise StoreUnusable(
            f"the database {url.database!r} of {named_by} cannot be used: {_without(reason, url.password)}. Check that "
            "the server runs and that PGHOST, PGPORT, PGUSER and PGPASSWORD are right."
        ) from None
    finally:
        engine.dispose()


def _refuse_unusable_server(uri: str) -> None:
    try:
        fetch(f"{uri.rstrip('/')}/health", CONNECT_SECONDS)  # any answer will do, also that there is no such page
    except (OSError, ValueError) as error:
        raise StoreUnusable(
            f"MLflow's server {uri} does not answer ({error}). Check that it runs, or correct {TRACKING_URI}."
        ) from error


def _without(text: str, password: object) -> str:
    return text.replace(str(password), "***") if password else text
