"""A PostgreSQL server for tests, in a temporary folder and on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from finephrase_dagster.study.paths import REPOSITORY

USER = "finephrase"
DATABASES = REPOSITORY / "deploy" / "postgres" / "databases.sql"


class PostgresServer:
    """A context manager that runs it; PostgreSQL refuses to run as root, so there it runs as somebody else."""

    def __enter__(self) -> PostgresServer:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        assert found, "these tests need a PostgreSQL server: install the package 'postgresql'"
        self._binaries = found[-1].parent
        self.password = secrets.token_hex(8)
        self._root = Path(tempfile.mkdtemp(prefix="finephrase-postgres-"))
        (self._root / "password").write_text(self.password)
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            for path in (self._root, self._root / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run(
            *("initdb", "--username", USER, "--auth", "scram-sha-256", "--pwfile", str(self._root / "password")),
            *("--no-sync", "--encoding", "UTF8", "--locale", "C"),
        )
        (self._root / "password").unlink()
        self.start()
        self.renew_databases()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        shutil.rmtree(self._root)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER, "PGPASSWORD": self.password}

    @property
    def files(self) -> Path:
        """The folder that holds its databases and its log."""
        return self._root

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._root} -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--log", str(self._root / "log"), "--options", options)

    def stop(self, mode: str) -> None:
        """Stops it; `immediate` is a crash to its clients."""
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def renew_databases(self) -> None:
        """Gives it the databases that it has at first, with nothing in them."""
        for name in ("dagster", "mlflow"):
            self.sql("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.sql("postgres", DATABASES.read_text(encoding="utf-8"))

    def sql(self, database: str, statements: str) -> list[tuple[Any, ...]]:
        """The rows of the last of some statements."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=database
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                rows: list[tuple[Any, ...]] = []
                for statement in filter(str.strip, re.sub("--.*", "", statements).split(";")):
                    cursor.execute(statement)
                    rows = cursor.fetchall() if cursor.description else []
                return rows
        finally:
            connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), "--pgdata", str(self._root / "data"), *arguments],
            cwd=self._root,
            stdout=subprocess.DEVNULL,  # the server keeps its starter's; a pipe would never end
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
            **self._as,
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}; {self._root}/log"
