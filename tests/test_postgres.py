"""Dagster and MLflow on a real PostgreSQL server: what they store, concurrent writers, and failures."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import CHECKPOINT, ItemKey
from finephrase_dagster.orchestration.stores import (
    InvalidStore,
    StoreUnusable,
    open_instance,
    refuse_unusable,
    tracking_uri,
    with_driver,
)
from finephrase_dagster.study.paths import REPOSITORY, Paths
from installation import Installation, small_study
from postgres_server import PostgresServer
from rephrase_parts import local_server
from resources.tracking import Tracking

SECRETS = {
    name: f"sesame-{number}-planted"
    for number, name in enumerate(("FINEPHRASE_API_KEY", "FINEPHRASE_FAILURE_WEBHOOK", "MLFLOW_TRACKING_PASSWORD"))
}
SETTINGS = REPOSITORY / "deploy" / "postgres" / "dagster.yaml"
WRITER = """
import sys
from pathlib import Path
import dagster as dg
from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import CHECKPOINT, ItemKey
from resources.student_record import RunDescription, StudentRecord
from resources.tracking import Tracking

@dg.asset(partitions_def=dg.StaticPartitionsDefinition([str(n) for n in range(6)]))
def rows() -> int:
    return 1

home, data, mine = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
tracking = Tracking(uri="postgresql:///mlflow", experiment="shared", artifacts=str(data / "artifacts"), web_url="")
with dg.DagsterInstance.from_config(home) as instance:
    for key in mine:
        assert dg.materialize([rows], instance=instance, partition_key=key).success
        artifact = Artifact(key=ItemKey(kind=CHECKPOINT, run=key), recipe={"of": key}, root=data)
        about = RunDescription(arm="arm", params={"key": key})
        tracking.complete([StudentRecord(artifact=artifact, about=about, points=[("loss", 1, 1.0)])])
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture
def databases(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> PostgresServer:
    """Return the server with empty databases, named by the environment."""
    server.renew_databases()
    for name, value in {**server.environment, "MLFLOW_TRACKING_URI": "postgresql:///mlflow"}.items():
        monkeypatch.setenv(name, value)
    return server


def of_postgres(home: Path) -> Path:
    """Create a Dagster home with the settings for PostgreSQL."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    shutil.copy(SETTINGS, home)
    return home


def short_study() -> dict[str, Any]:
    """Return the small study with its first student only."""
    fields = small_study()
    fields["mixtures"] = {"raw": fields["mixtures"]["raw"]}
    fields["runs"] = fields["runs"][:1]
    return fields


def materialize(installation: Installation, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "finephrase_dagster.commands.main", "materialize", "--study", str(installation.study)],
        env={
            **os.environ,
            **environment,
            "FINEPHRASE_DATA": str(installation.paths.data),
            "DAGSTER_HOME": str(installation.root / "dagster_home"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_an_instance_on_postgres_has_the_settings_of_a_local_one() -> None:
    local = yaml.safe_load((REPOSITORY / "dagster_home" / "dagster.yaml").read_text(encoding="utf-8"))
    postgres = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    assert postgres.pop("storage") == {"postgres": {"postgres_url": "postgresql+psycopg2:///dagster"}}
    assert postgres == local


def test_the_server_of_the_compose_file_listens_on_this_machine_only_and_its_password_is_in_no_file() -> None:
    service = yaml.safe_load((SETTINGS.parent / "compose.yaml").read_text(encoding="utf-8"))["services"]["postgres"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "POSTGRES_PASSWORD" not in service["environment"]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_uri_gets_the_installed_driver(scheme: str) -> None:
    assert with_driver(f"{scheme}://u@h/mlflow") == "postgresql+psycopg2://u@h/mlflow"
    assert with_driver("sqlite:///a.db") == "sqlite:///a.db"


@pytest.mark.parametrize(
    "uri", ["postgresql://u:sesame@73@h/db", "postgresql://[sesame", "postgresql://u:sesame@h", "http://u:sesame@h"]
)
def test_an_invalid_tracking_uri_is_refused_without_being_repeated(
    uri: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InvalidStore, match="MLFLOW_TRACKING_URI") as refused:
        tracking_uri(paths)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("name", ["50%", "what?", "a%20b"])
def test_a_folder_whose_sqlite_files_would_be_looked_for_elsewhere_is_refused(
    name: str, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InvalidStore, match=r"FINEPHRASE_DATA is .* Rename the folder"):
        tracking_uri(replace(paths, data=tmp_path / name))
    shutil.copytree(REPOSITORY / "dagster_home", tmp_path / name, ignore=shutil.ignore_patterns("storage", "logs"))
    with pytest.raises(InvalidStore, match=r"DAGSTER_HOME is .* Rename the folder"):
        refuse_unusable(paths, tmp_path / name)


def _torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [_torn, lambda path: path.write_bytes(b"not a database " * 999)], ids=["torn", "other"]
)
@pytest.mark.parametrize("place", ["data/mlflow/mlflow.db", "home/history/runs.db"])
def test_a_damaged_file_is_set_aside_with_what_would_be_applied_to_a_new_one(
    damage: Callable[[Path], None],
    place: str,
    paths: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    paths, home, store = replace(paths, data=tmp_path / "data"), tmp_path / "home", tmp_path / place
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    store.parent.mkdir(parents=True)
    with closing(sqlite3.connect(store)) as writer:
        writer.execute("CREATE TABLE runs (name TEXT)")
        writer.execute("BEGIN EXCLUSIVE")
        refuse_unusable(paths, home)
    assert store.exists(), "a store that another process writes is sound"
    damage(store)
    damaged, journal = store.read_bytes(), store.with_name(f"{store.name}-journal")
    journal.write_bytes(b"pages of the old file")
    refuse_unusable(paths, home)
    assert "`finephrase materialize` records in it what there is" in caplog.text
    assert store.with_name(f"{store.name}.damaged").read_bytes() == damaged
    assert not store.exists()
    assert not journal.exists()


@pytest.mark.parametrize("name", ["[work]", "a*b"])
def test_a_folder_whose_settings_dagster_would_not_find_is_refused(name: str, paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(InvalidStore, match=r"DAGSTER_HOME is .* Rename the folder"):
        refuse_unusable(paths, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b", "a#b", "[a]", "ä", "a&b=c;d"])
def test_mlflow_keeps_its_file_in_any_other_folder(name: str, paths: Paths, tmp_path: Path) -> None:
    tracking = Tracking(
        uri=tracking_uri(replace(paths, data=tmp_path / name)),
        experiment="e",
        artifacts=str(tmp_path / name / "files"),
        web_url="http://127.0.0.1:5000",
    )
    tracking.client().create_experiment("e")
    assert [file.name for file in tmp_path.rglob("*.db")] == ["mlflow.db"]
    assert (tmp_path / name / "mlflow" / "mlflow.db").is_file()


@pytest.mark.slow
def test_several_processes_create_dagsters_databases_at_once(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)

    def create() -> None:
        start.wait()
        open_instance(tmp_path).dispose()

    processes = [context.Process(target=create) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


def test_mlflows_server_is_reached_without_a_proxy_of_the_environment(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "example.org")
        refuse_unusable(paths, REPOSITORY / "dagster_home")
        Tracking(uri=server.url, experiment="e", artifacts="", web_url="").client().search_experiments()
        assert len(server.headers) == 2
        assert os.environ["no_proxy"] == "example.org,127.0.0.1"


def test_a_missing_database_causes_a_warning_without_its_password(tmp_path: Path) -> None:
    uri = "postgresql://u:sesame-73@127.0.0.1:1/mlflow"
    tracking = Tracking(uri=uri, experiment="x", artifacts=str(tmp_path), web_url="", patience=2)
    artifact = Artifact(key=ItemKey(kind=CHECKPOINT, run="a"), recipe={}, root=tmp_path)
    warnings: list[str] = []
    assert tracking.attempt(artifact, tracking.client, warn=warnings.append) is None
    (warning,) = warnings
    assert warning.startswith("cannot write to MLflow at postgresql+psycopg2:///mlflow")
    assert "sesame-73" not in warning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"PGPASSWORD": "sesame-73"}, "password authentication failed"),
        ({"PGPORT": "1"}, "Connection refused"),
        ({"MLFLOW_TRACKING_URI": "postgresql:///nothing"}, "'nothing' of MLFLOW_TRACKING_URI .* does not exist"),
        ({"MLFLOW_TRACKING_URI": "postgresql://u:sesame-73@/mlflow"}, "MLFLOW_TRACKING_URI .* authentication failed"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}, "http://127.0.0.1:1 does not answer"),
    ],
)
def test_an_unusable_store_is_named_before_anything_starts(
    databases: PostgresServer,
    paths: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    named: str,
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnusable, match=named) as refused:
        refuse_unusable(paths, of_postgres(tmp_path / "home"))
    assert "sesame-73" not in str(refused.value)


@pytest.mark.slow
def test_a_wrong_password_is_one_message_and_exit_status_1(databases: PostgresServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "finephrase_dagster.commands.main", "materialize"],
        env={
            **os.environ,
            "PGPASSWORD": "sesame-73",
            "DAGSTER_HOME": str(of_postgres(tmp_path / "home")),
            "FINEPHRASE_DATA": str(tmp_path / "data"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "password authentication failed" in done.stderr
    assert "sesame-73" not in done.stderr


@pytest.mark.slow
def test_processes_write_at_the_same_time_beginning_with_empty_databases(
    databases: PostgresServer, tmp_path: Path
) -> None:
    home = of_postgres(tmp_path / "home")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(home), str(tmp_path), ",".join(str(key) for key in range(first, 6, 2))],
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(2)
    ]
    for writer in writers:
        _, output = writer.communicate(timeout=400)
        assert writer.returncode == 0, output
    assert databases.sql("dagster", "SELECT status, count(*) FROM runs GROUP BY status") == [("SUCCESS", 6)]
    made = databases.sql("dagster", "SELECT partition FROM event_logs WHERE dagster_event_type='ASSET_MATERIALIZATION'")
    assert sorted(int(key) for (key,) in made) == list(range(6))
    assert databases.sql("mlflow", "SELECT status, count(*) FROM runs GROUP BY status") == [
        ("FINISHED", 7)
    ]  # and the arm
    assert databases.sql("mlflow", "SELECT count(*) FROM experiments WHERE name = 'shared'") == [(1,)]


@dataclass(frozen=True)
class Materialized:
    """A study that was materialized twice on a server of its own, which crashed the first time."""

    server: PostgresServer
    installation: Installation
    first: tuple[int, str]
    second: tuple[int, str]


@pytest.fixture(scope="module")
def materialized(finished: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Materialized]:
    installation = finished.copy(tmp_path_factory.mktemp("postgres") / "installation")
    installation.write(short_study())
    of_postgres(installation.root / "dagster_home")
    shutil.rmtree(installation.paths.tracking_store.parent)
    with PostgresServer() as server:
        environment = {
            **server.environment,
            **SECRETS,
            "MLFLOW_TRACKING_URI": f"postgresql://finephrase:{server.password}@/mlflow",
        }
        running = materialize(installation, environment)
        deadline = time.monotonic() + 120
        while not server.sql("postgres", "SELECT 1 FROM pg_stat_activity WHERE datname = 'dagster'") or not (
            server.sql("dagster", "SELECT 1 FROM pg_tables WHERE tablename = 'runs'")
            and server.sql("dagster", "SELECT 1 FROM runs")
        ):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.05)
        server.stop("immediate")
        output, _ = running.communicate(timeout=400)
        server.start()
        again = materialize(installation, environment)
        output_again, _ = again.communicate(timeout=400)
        yield Materialized(server, installation, (running.returncode, output), (again.returncode, output_again))


@pytest.mark.slow
def test_a_server_that_crashes_during_a_run_causes_one_message(materialized: Materialized) -> None:
    status, output = materialized.first
    assert status == 1, output
    assert "error: Dagster's database failed: " in output.splitlines()[-1]
    assert output.endswith("Start the database server, then run the same command again: what is finished is kept.\n")
    assert "Traceback" not in output


@pytest.mark.slow
def test_the_next_run_completes_with_runs_events_and_ablations_in_postgres(materialized: Materialized) -> None:
    status, output = materialized.second
    assert status == 0, output
    server, installation = materialized.server, materialized.installation
    (run,) = installation.lineage.study.student_runs
    statuses = dict(server.sql("dagster", "SELECT status, count(*) FROM runs GROUP BY status"))
    assert set(statuses) <= {"SUCCESS", "FAILURE"}
    ((steps,),) = server.sql("dagster", "SELECT count(*) FROM event_logs WHERE dagster_event_type='STEP_SUCCESS'")
    assert steps >= statuses["SUCCESS"] > 5
    arm = installation.lineage.study.student_runs[run].arm
    assert set(server.sql("mlflow", "SELECT name, status FROM runs")) == {(run, "FINISHED"), (arm, "FINISHED")}
    ((artifacts,),) = server.sql("mlflow", f"SELECT artifact_uri FROM runs WHERE name = '{run}'")
    assert (Path(artifacts.removeprefix("file://")) / "mixture.json").is_file()
    assert artifacts.startswith(installation.paths.data.resolve().as_uri())
    kept = [*(installation.root / "dagster_home").rglob("*.db"), *installation.paths.data.rglob("*.db")]
    assert not kept


@pytest.mark.slow
def test_no_output_file_or_database_contains_a_secret(materialized: Materialized) -> None:
    server, installation = materialized.server, materialized.installation
    secrets = [*SECRETS.values(), server.password]
    texts = {"the first output": materialized.first[1].encode(), "the second output": materialized.second[1].encode()}
    folders = (installation.paths.data, installation.root / "dagster_home", server.files)
    texts |= {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    snapshots = server.sql("dagster", "SELECT snapshot_id, snapshot_body FROM snapshots")
    assert len(snapshots) > 5
    texts |= {name: zlib.decompress(body) for name, body in snapshots}  # the only compressed content
    assert len(texts) > 500
    for name, text in texts.items():
        for secret in secrets:
            assert secret.encode() not in text, name
