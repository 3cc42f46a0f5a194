"""The stores: where Dagster and MLflow keep their state. SQLite files, or databases of a PostgreSQL server.

Dagster's is said by the settings in `DAGSTER_HOME`, MLflow's by `MLFLOW_TRACKING_URI`. Host, user and password of
a PostgreSQL server are libpq's to find (`PGHOST`, `PGUSER`, `PGPASSWORD`, `~/.pgpass`), so that no URL needs to
hold a secret. Where one does hold a password, it is not told.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.paths import Paths

TRACKING_URI = "MLFLOW_TRACKING_URI"
DRIVER = "postgresql+psycopg2"
CONNECT_SECONDS = 10
LOCK = 0x66696E65  # any number that others do not lock

_POSTGRES = re.compile(r"^postgres(ql)?(\+psycopg2)?:", re.IGNORECASE)
_SERVER = re.compile(r"^https?:", re.IGNORECASE)


class InvalidStore(FinephraseError, exit_status=2):
    """A store is described wrongly; the message names the variable and says how to write it."""


class StoreUnusable(FinephraseError):
    """A store does not answer, or lets nobody in; the message says what to see to."""


def tracking_uri(paths: Paths) -> str:
    """MLflow's store: what `MLFLOW_TRACKING_URI` says, else a SQLite file.

    Raises:
        InvalidStore: it cannot be used as it is written.
    """
    uri = os.environ.get(TRACKING_URI)
    if not uri:
        return f"sqlite:///{paths.tracking_store}"
    if is_server(uri) and "@" in uri:
        raise InvalidStore(
            f"{TRACKING_URI} has a user or a password in it, which links would show; write http://HOST:PORT, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if is_postgres(uri):
        _database(with_driver(uri), TRACKING_URI)
    return with_driver(uri)


def is_server(uri: str) -> bool:
    """Whether a tracking URI is that of an MLflow server."""
    return bool(_SERVER.match(uri))


def is_postgres(uri: str) -> bool:
    """Whether a URI is that of a PostgreSQL database."""
    return bool(_POSTGRES.match(uri))


def with_driver(uri: str) -> str:
    """A PostgreSQL URI that names the driver that is installed; any other as it is."""
    return _POSTGRES.sub(f"{DRIVER}:", uri)


def shown(uri: str) -> str:
    """A URI for people to read: of a database in PostgreSQL its name alone, for the rest may be secret."""
    return f"{DRIVER}:///{_database(with_driver(uri), TRACKING_URI).database}" if is_postgres(uri) else uri


def refuse_unusable(paths: Paths, dagster_home: Path) -> None:
    """Asks every store that is not a file whether it answers, before anything is started.

    Raises:
        InvalidStore: one is described wrongly.
        StoreUnusable: one does not answer.
    """
    tracking = tracking_uri(paths)
    settings = dagster_home / "dagster.yaml"
    if (dagster := _dagster_uri(settings)) is not None:
        _refuse_unusable_database(dagster, str(settings))
    if is_postgres(tracking):
        _refuse_unusable_database(tracking, TRACKING_URI)
    elif is_server(tracking):
        _refuse_unusable_server(tracking)


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Within this block no other process is within one for the same PostgreSQL database."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(with_driver(uri))
    try:
        with engine.connect() as connection:  # the lock ends with it
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
            yield
    finally:
        engine.dispose()


def server_failure(error: BaseException | None) -> str | None:
    """What a PostgreSQL server's failure says, in one line, if that is what is behind an error."""
    from sqlalchemy.exc import DBAPIError

    while error is not None:
        if isinstance(error, DBAPIError) and type(error.orig).__module__.startswith("psycopg2"):
            return " ".join(str(error.orig).split())
        error = error.__cause__ or error.__context__
    return None


def _dagster_uri(settings: Path) -> str | None:
    """The URI of Dagster's PostgreSQL database, if its settings name one."""
    try:
        read = yaml.safe_load(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidStore(f"{settings} cannot be read: {error}") from error
    said = read.get("storage") if isinstance(read, Mapping) else None
    postgres = said.get("postgres") if isinstance(said, Mapping) else None
    if not isinstance(postgres, Mapping):
        return None
    from dagster_postgres.utils import pg_url_from_config

    database = postgres.get("postgres_db")
    named = {"postgres_db": _from_environment(database, settings)} if isinstance(database, Mapping) else {}
    return pg_url_from_config({**_from_environment(postgres, settings), **named})


def _from_environment(said: Mapping[str, Any], settings: Path) -> dict[str, Any]:
    """The settings, with the variables that they name put in."""
    found = {}
    for name, value in said.items():
        if isinstance(value, Mapping) and set(value) == {"env"}:
            if value["env"] not in os.environ:
                raise InvalidStore(
                    f"{settings}: storage.postgres: {name} is in {value['env']}, which is not set; set it"
                )
            value = os.environ[value["env"]]
        found[name] = value
    return found


def _database(uri: str, named_by: str) -> Any:
    """A database's URI in its parts."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    wrong = f"{named_by}: it is no database's URI; write {DRIVER}:///DATABASE, and leave the rest to PGHOST and PGUSER"
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError) as error:
        raise InvalidStore(f"{wrong} and PGPASSWORD") from error.with_traceback(None)
    if "@" in (url.host or "") or not url.database:
        raise InvalidStore(f"{wrong}; a password in it is percent-encoded (%40 for @)")
    if url.drivername != DRIVER:
        raise InvalidStore(f"{named_by}: the scheme {url.drivername} has no driver here; write {DRIVER}://")
    return url


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
            f"the database {url.database!r} of {named_by} cannot be used: {_without(reason, url.password)}. See that "
            "the server runs and that PGHOST, PGPORT, PGUSER and PGPASSWORD are right"
        ) from None
    finally:
        engine.dispose()


def _refuse_unusable_server(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers, whatever it thinks of that page
    except (OSError, ValueError) as error:
        raise StoreUnusable(
            f"MLflow's server {uri} does not answer ({error}); see that it runs, or correct {TRACKING_URI}"
        ) from error


def _without(text: str, password: object) -> str:
    return text.replace(str(password), "***") if password else text
