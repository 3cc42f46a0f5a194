"""Schedules and sensors: all are listed here, and none costs anything before a person starts it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.automation.reload import RELOAD
from finephrase_dagster.orchestration.automation.webhook import WebhookFailed, post
from installation import CELL, Installation, install, small_study

SECRET = "token-that-nobody-may-see"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install(tmp_path_factory.mktemp("automation") / "installation")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def test_only_the_sensor_that_costs_nothing_runs_by_default(made: Installation) -> None:
    repository = build_defs(made.lineage).get_repository_def()
    statuses = {one.name: one.default_status.value for one in (*repository.schedule_defs, *repository.sensor_defs)}
    assert statuses == {
        "nightly_budget": "STOPPED",
        "launch_within_budget": "STOPPED",
        "launch_ready_audits": "STOPPED",
        "launch_ready_tokens": "STOPPED",
        "launch_ready_mixtures": "STOPPED",
        "launch_ready_training": "STOPPED",
        "launch_ready_evaluation": "STOPPED",
        "reload_study": "STOPPED",
        "report_failures": "STOPPED",
        "observe_prompts": "RUNNING",
    }


class Server:
    """A local web server that answers as configured and keeps what was posted."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.answer: dict[str, Any] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = outer.statuses.pop(0) if outer.statuses else 200
                if status == 200:
                    outer.posted.append(body)
                content = json.dumps(outer.answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class Sensor:
    """A sensor with its cursor, evaluated on demand."""

    def __init__(self, made: Installation, name: str, instance: dg.DagsterInstance) -> None:
        definitions = build_defs(made.lineage)
        self._sensor, self._repository = definitions.resolve_sensor_def(name), definitions.get_repository_def()
        self._instance = instance
        self._cursor: str | None = None

    def tick(self) -> str:
        context = dg.build_sensor_context(self._instance, repository_def=self._repository, cursor=self._cursor)
        found = self._sensor.evaluate_tick(context)
        self._cursor = found.cursor
        return found.skip_message or ""


def failed_run(instance: dg.DagsterInstance, **tags: str) -> str:
    run = create_run_for_test(
        instance,
        job_name=f"make__synthetic__{CELL}",
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "faq", **tags},
    )
    instance.report_run_failed(run, "the engine has ended")
    return run.run_id


def test_a_failed_run_is_reported_once_with_what_a_person_needs(
    made: Installation, instance: dg.DagsterInstance, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_FAILURE_WEBHOOK", f"{server.url}/{SECRET}")
    monkeypatch.setenv("FINEPHRASE_DAGSTER_URL", "http://127.0.0.1:3000/")
    failed_run(instance)
    sensor = Sensor(made, "report_failures", instance)
    sensor.tick()
    assert server.posted == [], "runs that failed before the sensor was started are not reported"
    run = failed_run(instance)
    assert sensor.tick() == "1 failures reported"
    assert sensor.tick() == "0 failures reported"
    assert server.posted == [
        {
            "study": "small",
            "run": run,
            "job": f"make__synthetic__{CELL}",
            "assets": [f"synthetic/{CELL}"],
            "partitions": ["faq"],
            "message": "the engine has ended",
            "link": f"http://127.0.0.1:3000/runs/{run}",
        }
    ]


def test_a_failure_is_sent_again_if_the_webhook_fails_and_its_address_is_never_shown(
    made: Installation,
    instance: dg.DagsterInstance,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("FINEPHRASE_FAILURE_WEBHOOK", f"{server.url}/{SECRET}")
    sensor = Sensor(made, "report_failures", instance)
    sensor.tick()
    runs = [failed_run(instance) for _ in range(3)]
    server.statuses = [200, 500]
    messages = [sensor.tick()]
    assert messages[0] == "1 failures reported; the next one is sent again: the webhook answers HTTP 500"
    messages.append(sensor.tick())
    assert [post["run"] for post in server.posted] == runs
    monkeypatch.setenv("FINEPHRASE_FAILURE_WEBHOOK", f"http://127.0.0.1:1/{SECRET}")
    failed_run(instance)
    messages.append(sensor.tick())
    assert "cannot be reached" in messages[-1]
    assert SECRET not in "\n".join([*messages, caplog.text])


@pytest.mark.parametrize("status", [204, 301, 307])
def test_a_failure_is_reported_only_by_an_answer_of_2xx_and_no_redirect_is_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.statuses = [status]
    if status < 300:
        post(f"{server.url}/hook?token={SECRET}", {"run": "x"})
    else:
        with pytest.raises(WebhookFailed, match=f"answers HTTP {status}; set FINEPHRASE_FAILURE_WEBHOOK to its new"):
            post(f"{server.url}/hook?token={SECRET}", {"run": "x"})
        assert server.posted == []


def test_a_reported_failure_is_not_reported_again_if_the_cursor_is_lost(
    made: Installation, instance: dg.DagsterInstance, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_FAILURE_WEBHOOK", server.url)
    sensor = Sensor(made, "report_failures", instance)
    sensor.tick()
    before = sensor._cursor
    failed_run(instance)
    sensor.tick()
    sensor._cursor = before  # as after a crash in the middle of the tick
    assert sensor.tick() == "0 failures reported"
    assert len(server.posted) == 1


def test_a_run_that_will_be_retried_is_not_reported(
    made: Installation, instance: dg.DagsterInstance, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_FAILURE_WEBHOOK", server.url)
    sensor = Sensor(made, "report_failures", instance)
    sensor.tick()
    failed_run(instance, **{"dagster/will_retry": "true"})
    failed_run(instance, **{"dagster/max_retries": "0"})
    sensor.tick()
    assert len(server.posted) == 1


def test_without_an_address_the_message_says_what_to_set(made: Installation, instance: dg.DagsterInstance) -> None:
    assert "FINEPHRASE_FAILURE_WEBHOOK is not set" in Sensor(made, "report_failures", instance).tick()


RELOADED = {
    "data": {
        "reloadRepositoryLocation": {
            "__typename": "WorkspaceLocationEntry",
            "loadStatus": "LOADED",
            "locationOrLoadError": {},
        }
    }
}


@pytest.fixture
def own(made: Installation, tmp_path: Path) -> Installation:
    return made.copy(tmp_path / "installation")


def extended(own: Installation) -> None:
    fields = small_study()
    fields["prompts"].append("math")
    own.write(fields)


@pytest.mark.slow
def test_a_new_prompt_in_the_study_reloads_the_code_location_once(
    own: Installation, instance: dg.DagsterInstance, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_DAGSTER_URL", server.url)
    server.answer = RELOADED
    sensor = Sensor(own, "reload_study", instance)
    assert sensor.tick() == "the study on disk is loaded"
    extended(own)
    assert sensor.tick().startswith("reloaded")
    assert "could not be loaded" in sensor.tick(), "one attempt for each version of the study"
    (request,) = server.posted
    assert "reloadRepositoryLocation" in request["query"]
    assert request["variables"] == {"location": "finephrase"}
    own.write(small_study())
    assert sensor.tick() == "the study on disk is loaded"


@pytest.mark.slow
def test_the_graphql_mutation_is_valid_for_dagsters_web_server() -> None:
    from dagster_graphql.schema import create_schema
    from graphql import parse, validate

    assert validate(create_schema().graphql_schema, parse(RELOAD)) == []


def test_an_invalid_study_or_prompt_is_reported_and_reloads_nothing(
    own: Installation, instance: dg.DagsterInstance, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_DAGSTER_URL", server.url)
    sensor = Sensor(own, "reload_study", instance)
    extended(own)
    (own.paths.prompts / "math.md").write_text("no front matter")
    assert "the study on disk is invalid" in sensor.tick()
    assert "math.md" in sensor.tick()
    own.study.write_text("name: [")
    assert "not valid YAML" in sensor.tick()
    assert server.posted == []


def test_an_edited_prompt_needs_no_reload(own: Installation, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(own, "reload_study", instance)
    path = own.paths.prompts / "faq.md"
    path.write_text(path.read_text().replace("curious", "patient"))
    assert sensor.tick() == "the study on disk is loaded"


def test_without_a_web_server_the_message_says_what_to_press(
    own: Installation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FINEPHRASE_DAGSTER_URL", raising=False)
    sensor = Sensor(own, "reload_study", instance)
    extended(own)
    assert "press 'Reload'" in sensor.tick()
    assert "press 'Reload'" in sensor.tick()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"data": {"reloadRepositoryLocation": {"__typename": "PythonError", "message": "gone"}}}, "gone"),
        (
            {
                "data": {
                    "reloadRepositoryLocation": {
                        "__typename": "WorkspaceLocationEntry",
                        "locationOrLoadError": {"message": "it does not import"},
                    }
                }
            },
            "it does not import",
        ),
    ],
)
def test_a_reload_that_fails_says_why(
    own: Installation,
    instance: dg.DagsterInstance,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setenv("FINEPHRASE_DAGSTER_URL", server.url)
    server.answer = answer
    sensor = Sensor(own, "reload_study", instance)
    extended(own)
    assert words in sensor.tick()
