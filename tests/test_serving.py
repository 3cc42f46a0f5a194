"""`finephrase ui` on PostgreSQL and behind nginx: addresses, access, and secrets."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from finephrase_dagster.orchestration.jobs import job_of
from finephrase_dagster.study.paths import REPOSITORY
from installation import CELL, Installation, install
from postgres_server import PostgresServer

pytestmark = pytest.mark.slow

START_SECONDS = 300
NGINX = "/usr/sbin/nginx"
SETTINGS = REPOSITORY / "deploy" / "postgres" / "dagster.yaml"
CONF = REPOSITORY / "deploy" / "proxy" / "nginx.conf"
PASSWORD = "sesame-73-proxy"
NAME = "pages.example.org"
EVIL = "http://evil.example"
RELOAD = 'mutation { reloadRepositoryLocation(repositoryLocationName: "finephrase") { __typename } }'


@dataclass(frozen=True)
class Serving:
    process: subprocess.Popen[bytes]
    dagster: int
    mlflow: int
    proxy: int
    installation: Installation
    server: PostgresServer
    log: Path

    def get(self, path: str, *, user: str | None = None, **headers: str) -> tuple[int, bytes]:
        """Return the proxy's answer."""
        if user is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        request = urllib.request.Request(f"https://127.0.0.1:{self.proxy}{path}", headers=headers)
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until_answered(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)


def write_proxy(folder: Path, dagster: int, mlflow: int, proxy: int) -> Path:
    """Write the example configuration with the files and ports of the test."""
    run = {"check": True, "capture_output": True, "text": True}
    hashed = subprocess.run(["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, **run).stdout.strip()
    (folder / "passwords").write_text(f"ada:{hashed}\n")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")),
        ],
        **run,
    )
    text = CONF.read_text(encoding="utf-8")
    for example, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{proxy} ssl"),
        ("127.0.0.1:3000", f"127.0.0.1:{dagster}"),
        ("127.0.0.1:5000", f"127.0.0.1:{mlflow}"),
        ("/etc/finephrase/", f"{folder}/"),
    ):
        assert example in text
        text = text.replace(example, here)
    kept = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", f"http {{ access_log {folder}/access.log; {kept}", 1)
    me = "user root;" if os.geteuid() == 0 else ""  # only the user of the test can read its folders
    (folder / "nginx.conf").write_text(f"{me} daemon off; pid {folder}/nginx.pid; {text}")
    return folder / "nginx.conf"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    assert Path(NGINX).exists(), "these tests need nginx: install the package 'nginx'"
    root = tmp_path_factory.mktemp("serving")
    installation = install(root / "installation")
    shutil.copy(SETTINGS, root / "installation" / "dagster_home")
    dagster, mlflow, proxy = free_ports(3)
    conf = write_proxy(root, dagster, mlflow, proxy)
    log = root / "ui.log"
    with PostgresServer() as server, log.open("wb") as out:
        environment = {
            **os.environ,
            **server.environment,
            "MLFLOW_TRACKING_URI": f"postgresql://{server.environment['PGUSER']}:{server.password}@/mlflow",
            "FINEPHRASE_DATA": str(installation.paths.data),
            "DAGSTER_HOME": str(installation.root / "dagster_home"),
            "FINEPHRASE_ALLOWED_HOSTS": NAME,
        }
        command = [sys.executable, "-m", "finephrase_dagster.commands.main", "ui", "--study", str(installation.study)]
        ports = ["--port", str(dagster), "--mlflow-port", str(mlflow)]
        ui = subprocess.Popen([*command, *ports], env=environment, stdout=out, stderr=subprocess.STDOUT)
        nginx = subprocess.Popen([NGINX, "-p", str(root), "-c", str(conf)], stdout=out, stderr=subprocess.STDOUT)
        try:
            for url in (f"http://127.0.0.1:{dagster}/server_info", f"http://127.0.0.1:{mlflow}/health"):
                until_answered(url, ui, log)
            assert nginx.poll() is None, log.read_text()
            yield Serving(ui, dagster, mlflow, proxy, installation, server, log)
        finally:
            nginx.terminate()
            nginx.wait(30)
            ui.send_signal(signal.SIGTERM)
            ui.wait(60)


def test_every_server_listens_on_this_machine_only(serving: Serving) -> None:
    started = psutil.Process(serving.process.pid).children(recursive=True)
    listening = [
        one.laddr for process in started for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN
    ]
    assert {serving.dagster, serving.mlflow} <= {port for _, port in listening}
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1"}


def test_no_argument_log_page_or_file_contains_the_databases_password(serving: Serving) -> None:
    started = psutil.Process(serving.process.pid).children(recursive=True)
    assert len(started) > 3
    for process in started:
        assert serving.server.password not in " ".join(process.cmdline())
    assert serving.server.password not in serving.log.read_text()
    for path in serving.installation.root.rglob("*"):
        if path.is_file():
            assert serving.server.password.encode() not in path.read_bytes(), path
    query = """{ topLevelResourceDetailsOrError(resourceSelector: {
        repositoryName: "__repository__", repositoryLocationName: "finephrase", resourceName: "tracking"
    }) { __typename ... on ResourceDetails { configuredValues { key value type } } } }"""
    request = urllib.request.Request(
        f"http://127.0.0.1:{serving.dagster}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        page = answer.read().decode()
    assert "MLFLOW_TRACKING_URI" in page
    assert serving.server.password not in page


def test_the_terminal_shows_only_the_addresses_and_the_servers_write_to_log_files(serving: Serving) -> None:
    lines = serving.log.read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Dagster", "MLflow", "Logs", "Press Ctrl-C to stop."]
    for name in ("dagster", "mlflow"):
        assert (serving.installation.paths.data / "logs" / f"{name}.log").stat().st_size > 0


def test_sensors_keep_their_state_in_postgres(serving: Serving) -> None:
    deadline = time.monotonic() + 60
    while serving.server.sql("dagster", "SELECT count(*) FROM job_ticks") == [(0,)]:
        assert time.monotonic() < deadline, serving.log.read_text()
        time.sleep(0.5)
    assert serving.server.sql("dagster", "SELECT count(*) > 0 FROM daemon_heartbeats") == [(True,)]
    assert not list((serving.installation.root / "dagster_home").rglob("*.db"))


@pytest.mark.parametrize("path", ["/", "/graphql", "/mlflow/", "/mlflow/api/2.0/mlflow/experiments/search", "/x/../"])
@pytest.mark.parametrize("user", [None, "ada:wrong", "bob:" + PASSWORD])
def test_the_proxy_refuses_requests_without_a_valid_password(serving: Serving, path: str, user: str | None) -> None:
    assert serving.get(path, user=user)[0] == 401


def test_the_proxy_shows_both_pages_with_a_valid_password(serving: Serving) -> None:
    user = f"ada:{PASSWORD}"
    status, page = serving.get("/server_info", user=user)
    assert (status, "dagster_version" in page.decode()) == (200, True)
    status, page = serving.get("/mlflow/", user=user)
    assert (status, b"MLflow" in page) == (200, True)
    static = page.decode().partition('src="')[2].partition('"')[0]
    assert not static.startswith("/"), "MLflow's pages name their files from the root"
    assert serving.get(f"/mlflow/{static}", user=user)[0] == 200
    status, page = serving.get("/mlflow/api/2.0/mlflow/experiments/search?max_results=5", user=user)
    assert (status, "Default" in [each["name"] for each in json.loads(page)["experiments"]]) == (200, True)


WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"x" * 16).decode(),
    "Sec-WebSocket-Protocol": "graphql-ws",
}


def status_of(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None, **headers: str
) -> int:
    connection.request(method, path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (NAME, f"https://{NAME}", 101),
        (NAME, "https://evil.example", 403),
        ("evil.example", "https://evil.example", 403),
    ],
)
def test_the_proxy_forwards_websockets_of_its_own_pages_only(
    serving: Serving, host: str, origin: str, status: int
) -> None:
    context = ssl._create_unverified_context()
    proxy = http.client.HTTPSConnection("127.0.0.1", serving.proxy, timeout=30, context=context)
    password = "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
    headers = {**WEBSOCKET, "Authorization": password, "Host": host, "Origin": origin}
    assert status_of(proxy, "GET", "/graphql", **headers) == status


@pytest.mark.parametrize(
    ("path", "body"),
    [("/graphql", {"query": RELOAD}), ("/mlflow/api/2.0/mlflow/experiments/create", {"name": "by a page"})],
)
def test_the_proxy_forwards_changes_by_its_own_pages_only(serving: Serving, path: str, body: dict[str, str]) -> None:
    context = ssl._create_unverified_context()
    password = "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
    for host, origin, status in (
        (NAME, EVIL, 403),
        ("evil.example", "https://evil.example", 403),
        (NAME, f"https://{NAME}", 200),
    ):
        proxy = http.client.HTTPSConnection("127.0.0.1", serving.proxy, timeout=60, context=context)
        headers = {"Content-Type": "application/json", "Authorization": password, "Host": host, "Origin": origin}
        assert status_of(proxy, "POST", path, json.dumps(body), **headers) == status, (host, origin)


def test_no_page_of_another_site_changes_anything_in_dagster(serving: Serving) -> None:
    def dagster(method: str, path: str, body: str | None = None, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", serving.dagster, timeout=60)
        return status_of(connection, method, path, body, **{name.replace("_", "-"): headers[name] for name in headers})

    mutation = "/graphql?" + urllib.parse.urlencode({"query": RELOAD})
    json_body = json.dumps({"query": RELOAD})
    own = f"http://127.0.0.1:{serving.dagster}"
    assert dagster("GET", mutation) == 405
    assert dagster("POST", mutation, Content_Type="text/plain") == 403
    assert dagster("POST", "/graphql", json_body, Content_Type="application/json", Origin=EVIL) == 403
    assert dagster("POST", "/graphql", json_body, Content_Type="application/json", Host="evil.example") == 403
    assert dagster("GET", "/graphql", **WEBSOCKET, Origin=EVIL) == 403
    assert dagster("GET", "/graphql", **WEBSOCKET, Origin=own) == 101
    assert dagster("POST", "/graphql", json_body, Content_Type="application/json", Origin=own) == 200


def test_no_page_of_another_site_changes_anything_in_mlflow(serving: Serving) -> None:
    def mlflow(host: str, origin: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", serving.mlflow, timeout=60)
        headers = {"Content-Type": "application/json", "Host": host, "Origin": origin}
        path = "/api/2.0/mlflow/experiments/create"
        return status_of(connection, "POST", path, json.dumps({"name": f"{host} {origin}"}), **headers)

    own = f"127.0.0.1:{serving.mlflow}"
    assert mlflow(own, EVIL) == 403
    assert mlflow("10.evil.example", f"http://{own}") == 403
    assert mlflow(own, f"http://{own}") == 200


def test_a_run_cannot_choose_where_documents_and_the_key_go(serving: Serving) -> None:
    query = """query($config: RunConfigData!, $name: String!) { isPipelineConfigValid(
        runConfigData: $config, mode: "default",
        pipeline: {pipelineName: $name, repositoryName: "__repository__", repositoryLocationName: "finephrase"})
        { __typename ... on RunConfigValidationInvalid { errors { message } } } }"""
    config = {"resources": {"rephraser": {"config": {"endpoints": ["http://evil.example"]}}}}
    body = {"query": query, "variables": {"config": config, "name": job_of(f"synthetic/{CELL}")}}
    request = urllib.request.Request(
        f"http://127.0.0.1:{serving.dagster}/graphql",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert "endpoints" in json.load(answer)["data"]["isPipelineConfigValid"]["errors"][0]["message"]


def test_the_proxy_stores_hashed_passwords_only(serving: Serving) -> None:
    folder = serving.log.parent
    assert "ada:$6$" in (folder / "passwords").read_text()
    serving.get("/", user=f"ada:{PASSWORD}")
    for path in folder.iterdir():
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path
