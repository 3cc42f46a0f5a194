"""Failing pods on a substitute API: each run ends with the right status and names the pod and the cause."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dagster._core.workspace.context import WorkspaceRequestContext
from dagster._daemon.monitoring.run_monitoring import monitor_started_run, monitor_starting_run

from kubernetes_api import KubernetesApi, Object, processes_of
from kubernetes_parts import (
    CONTROL,
    ENGINE,
    Control,
    check_access,
    check_manifests,
    control,
    node,
    sources,
    until,
    write_cluster,
    write_instance,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@dataclass
class Cluster:
    """A code location whose assets do almost nothing and whose runs become pods."""

    api: KubernetesApi
    control: Control
    marks: Path

    def step_pod(self, run: str) -> Object:
        """Return the newest pod of a run's step, once its asset has begun."""

        def found() -> Object | None:
            for pod in reversed(self.api.all("pods")):
                labels = pod["metadata"]["labels"]
                if labels.get("dagster/run-id") == run and "dagster/op" in labels:
                    return pod if (self.marks / f"begun-{pod['metadata']['name']}").exists() else None
            return None

        pod: Object = until(found, f"the step of run {run} has begun")
        return pod

    def run_pod(self, run: str) -> Object:
        pod = self.api.pod(f"dagster-run-{run}")
        assert pod is not None
        return pod


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("failures")
    marks = root / "marks"
    marks.mkdir()
    environment = {"FINEPHRASE_CLUSTER": str(write_cluster(root, patience_seconds=1)), "POD_MARKS": str(marks)}
    api = KubernetesApi(
        root,
        node=node(FINEPHRASE_STEP_HEALTH_SECONDS="1"),
        images={CONTROL: {}, ENGINE: {}},
        sources=sources(**environment),
    )
    with pytest.MonkeyPatch.context() as patch, api:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(
            "finephrase_dagster.orchestration.retries.FIRST_WAIT_SECONDS", 0
        )  # as the import does, but not for good
        import pod_definitions

        home = write_instance(root / "control", api.kubeconfig)
        with control(home, "pod_definitions", pod_definitions.defs.get_repository_def()) as plane:
            yield Cluster(api, plane, marks)


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its status, its messages, and the pods of its step's attempts."""

    status: str
    messages: str
    pods: tuple[str, ...]


CAUSES = {
    "killed": ("Error", "was killed (SIGKILL), exit code 137"),
    "evicted": ("Evicted", "was removed from its node: Evicted (The node was low on resource: memory.)"),
    "out_of_memory": ("OOMKilled", "ran out of memory (OOMKilled). Raise 'memory' in the cluster file"),
}


@pytest.fixture(scope="module")
def lost(cluster: Cluster) -> dict[str, Ended]:
    """Start runs whose steps lose their first pod, all at once; second attempts keep theirs."""
    runs = {cause: cluster.control.launch("make_waiting") for cause in CAUSES}
    first = {}
    for cause, (reason, _) in CAUSES.items():
        pod = cluster.step_pod(runs[cause])
        first[cause] = pod["metadata"]["name"]
        cluster.api.end_pod(pod, reason)
    (cluster.marks / "finish").touch()
    ended = {}
    for cause, run in runs.items():
        status = cluster.control.wait(run)
        text = "\n".join(cluster.control.messages(run))
        begun = sorted(path.name.removeprefix("begun-") for path in cluster.marks.glob("begun-*"))
        attempts = tuple(name for name in begun if name.rsplit("-", 1)[0].startswith(first[cause].rsplit("-", 1)[0]))
        ended[cause] = Ended(status, text, (first[cause], *(name for name in attempts if name != first[cause])))
    (cluster.marks / "finish").unlink()
    return ended


@pytest.mark.parametrize("cause", CAUSES)
def test_a_step_that_loses_its_pod_names_it_and_the_cause(lost: dict[str, Ended], cause: str) -> None:
    assert f"pod {lost[cause].pods[0]} {CAUSES[cause][1]}" in lost[cause].messages


@pytest.mark.parametrize(
    ("cause", "status", "attempts"),
    [("killed", "SUCCESS", 2), ("evicted", "SUCCESS", 2), ("out_of_memory", "FAILURE", 1)],
)
def test_a_step_is_retried_only_if_the_cause_lay_outside_of_it(
    lost: dict[str, Ended], cause: str, status: str, attempts: int
) -> None:
    assert (lost[cause].status, len(lost[cause].pods)) == (status, attempts), lost[cause].messages


def test_a_step_whose_pod_is_lost_before_it_began_gets_another_pod(cluster: Cluster) -> None:
    run = cluster.control.launch("make_brief")

    def begins() -> Object | None:
        found = [pod for pod in cluster.api.all("pods") if pod["metadata"]["labels"].get("dagster/run-id") == run]
        return next((pod for pod in found if "dagster/op" in pod["metadata"]["labels"]), None)

    first = until(begins, "the step has a pod")
    cluster.api.end_pod(first, "Evicted")
    assert cluster.control.wait(run) == "SUCCESS", cluster.control.messages(run)
    text = "\n".join(cluster.control.messages(run))
    assert f"pod {first['metadata']['name']} was removed from its node" in text
    assert "its step had not begun and gets another pod" in text


def test_a_pod_that_cannot_start_is_named_and_not_retried(cluster: Cluster) -> None:
    image = cluster.api.images.pop(ENGINE)
    try:
        run = cluster.control.launch("make_waiting")
        assert cluster.control.wait(run) == "FAILURE"
    finally:
        cluster.api.images[ENGINE] = image
    text = "\n".join(cluster.control.messages(run))
    assert 'cannot start: ImagePullBackOff: Back-off pulling image "finephrase/engine:0.1.0"' in text
    assert "Correct 'images' or 'pull_secrets' in the cluster file, or push the image" in text
    assert not [
        pod
        for pod in cluster.api.all("pods")
        if pod["metadata"]["labels"].get("dagster/run-id") == run and pod["status"]["phase"] == "Pending"
    ]


def monitored(cluster: Cluster, run: str) -> None:
    """Run the check that Dagster's daemon makes once per minute."""
    import logging

    record = cluster.control.instance.get_run_record_by_id(run)
    assert record is not None
    workspace: WorkspaceRequestContext = cluster.control.workspace
    logger = logging.getLogger("monitoring")
    if record.dagster_run.status.value == "STARTING":
        monitor_starting_run(cluster.control.instance, record, logger)
    else:
        monitor_started_run(cluster.control.instance, workspace, record, logger)


def test_a_run_survives_the_loss_of_its_pod_and_a_restart_of_the_api_server(cluster: Cluster) -> None:
    run = cluster.control.launch("make_waiting")
    step = cluster.step_pod(run)
    cluster.api.stop()
    monitored(cluster, run)
    time.sleep(2)  # time for the run's own pod to check its step
    cluster.api.start()
    assert not cluster.api.pod(f"dagster-run-{run}-1"), "a second worker was started while the API did not answer"
    cluster.api.end_pod(cluster.run_pod(run))
    monitored(cluster, run)
    until(lambda: cluster.api.pod(f"dagster-run-{run}-1"), "a second worker takes the run up")
    (cluster.marks / "finish").touch()
    try:
        assert cluster.control.wait(run) == "SUCCESS", cluster.control.messages(run)
    finally:
        (cluster.marks / "finish").unlink()
    assert cluster.step_pod(run)["metadata"]["name"] == step["metadata"]["name"], "the step continued in its pod"


def test_a_run_whose_pod_cannot_start_fails_and_names_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    image = cluster.api.images.pop(CONTROL)
    try:
        run = cluster.control.launch("make_brief")
        monkeypatch.setattr(type(cluster.control.instance), "run_monitoring_start_timeout_seconds", 0.1)
        time.sleep(0.3)
        monitored(cluster, run)
    finally:
        cluster.api.images[CONTROL] = image
    text = "\n".join(cluster.control.messages(run))
    assert cluster.control.status(run) == "FAILURE"
    assert f"dagster-run-{run}" in text
    assert "ImagePullBackOff" in text
    cluster.control.instance.run_launcher.terminate(run)


def test_a_canceled_run_leaves_no_pod_and_no_job(cluster: Cluster) -> None:
    run = cluster.control.launch("make_waiting")
    step = cluster.step_pod(run)
    assert cluster.control.instance.run_launcher.terminate(run)
    assert cluster.control.wait(run) == "CANCELED"

    def of_run() -> list[Object]:
        found = [*cluster.api.all("jobs"), *cluster.api.all("pods")]
        return [one for one in found if one["metadata"]["labels"].get("dagster/run-id") == run]

    until(lambda: not of_run(), "nothing of the run is left")
    assert processes_of(step) == []
    assert os.environ["FINEPHRASE_CLUSTER"]


def test_every_request_is_valid_and_allowed_by_the_role(cluster: Cluster) -> None:
    check_manifests(cluster.api.received)
    check_access(cluster.api.asked)
