"""Jobs for pods without Dagster: how they end, with a substitute for the worker that reports through Pipes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.retries import is_infrastructure
from finephrase_dagster.pods.api import Pods, load
from finephrase_dagster.pods.cluster import read_cluster
from finephrase_dagster.pods.failure import PodFailed, PodLost, PodMisconfigured
from finephrase_dagster.rephrase.job import RephraseJob, Target
from finephrase_dagster.rephrase.model_source import EngineSpec
from finephrase_dagster.study.component import Cell
from kubernetes_api import KubernetesApi, Object, processes_of
from kubernetes_parts import ENGINE, check_access, check_manifests, node, sources, until, write_cluster
from rephrase_parts import PROMPTS, datasets, generator, recipe
from resources import pod_rephraser
from resources.pod_rephraser import PodRephraser

LABELS = {"finephrase/job": "of-a-test"}
WORKER = """
import sys, time
from pathlib import Path
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    job = pipes.get_extra("job")
    pipes.log.info("received " + job["model"])
    for number in range(20):
        pipes.log.info(f"row {number}")
        time.sleep(SECONDS)
print("the end of it", file=sys.stderr)
sys.exit(STATUS)
"""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    with KubernetesApi(tmp_path, node=node(), images={ENGINE: {}}, sources=sources()) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        monkeypatch.setattr("finephrase_dagster.pods.api.POLL_SECONDS", 0.05)
        yield server


def job_in(root: Path) -> RephraseJob:
    return RephraseJob(
        files=(str(root / "corpus.parquet"),),
        prompts=PROMPTS,
        targets={name: Target(folder=str(root / name), recipe=recipe(name)) for name in PROMPTS},
        model="tiny",
        engine=EngineSpec(generator=generator(), model=root / "model", log=root / "log"),
    )


def send(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seconds: float = 0.0,
    status: int = 0,
    do: Callable[[], None] = lambda: None,
) -> tuple[list[str], Exception | None]:
    """Send a job from a step, and do something meanwhile; return what the step logged, and its error."""
    script = WORKER.replace("SECONDS", str(seconds)).replace("STATUS", str(status))
    monkeypatch.setattr(pod_rephraser, "COMMAND", ["python3", "-c", script])
    cluster = read_cluster(write_cluster(root, images={"control": ENGINE, "engine": ENGINE}))
    load()
    raised: list[Exception] = []

    @dg.asset
    def step() -> Iterator[dg.MaterializeResult]:
        try:
            PodRephraser(poll_seconds=0.1).send(job_in(root), cluster, Pods(cluster.namespace, LABELS))
        except Exception as error:
            raised.append(error)
        yield dg.MaterializeResult()

    meanwhile = threading.Thread(target=do, daemon=True)
    meanwhile.start()
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([step], instance=instance)
        logged = [entry.user_message for entry in instance.all_logs(run.run_id) if not entry.dagster_event]
    meanwhile.join(30)
    return logged, raised[0] if raised else None


def engine_pod(api: KubernetesApi) -> Object:
    pod: Object = until(lambda: api.pod("dagster-"), "the engine has a pod")
    until(lambda: len(api._running[pod["metadata"]["uid"]].lines) > 5, "it has written to its log")
    return pod


@pytest.mark.slow
def test_a_job_reaches_the_pod_and_its_log_reaches_the_step(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged, raised = send(tmp_path, monkeypatch)
    assert raised is None
    assert [line for line in logged if line.startswith(("row", "received"))] == [
        "received tiny",
        *(f"row {number}" for number in range(20)),
    ]
    (pod,) = api.received
    assert pod["metadata"]["labels"].items() >= LABELS.items()
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert api.all("pods") == []
    check_manifests(api.received)
    check_access(api.asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "message", "kind"),
    [
        ("Error", "was killed (SIGKILL), exit code 137. Finished rows are kept.", PodLost),
        ("Evicted", "was removed from its node: Evicted (The node was low on resource: memory.)", PodLost),
        ("OOMKilled", "ran out of memory (OOMKilled). Raise 'memory' in the cluster file", PodMisconfigured),
    ],
)
def test_a_lost_engine_pod_is_named_and_deleted(
    api: KubernetesApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    message: str,
    kind: type[Exception],
) -> None:
    lost: list[Object] = []

    def lose() -> None:
        lost.append(engine_pod(api))
        api.end_pod(lost[0], reason)

    _, raised = send(tmp_path, monkeypatch, seconds=0.1, do=lose)
    assert isinstance(raised, kind)
    assert is_infrastructure(raised) == (kind is PodLost)
    assert f"pod {lost[0]['metadata']['name']} {message}" in str(raised)
    assert api.all("pods") == []


@pytest.mark.parametrize(("status", "again"), [(1, False), (75, True)])
def test_a_failed_workers_exit_status_decides_whether_the_step_is_retried(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, again: bool
) -> None:
    _, raised = send(tmp_path, monkeypatch, status=status)
    assert raised is not None
    assert isinstance(raised, PodLost if again else PodFailed)
    assert not isinstance(raised, PodMisconfigured)
    assert is_infrastructure(raised) == again
    assert f"ended with exit code {status}. Finished rows are kept.\nLast lines of its log:\nthe end of it" in str(
        raised
    )


@pytest.mark.slow
def test_a_missing_engine_image_is_named(api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.images.clear()
    _, raised = send(tmp_path, monkeypatch)
    assert isinstance(raised, PodMisconfigured)
    assert 'cannot start: ImagePullBackOff: Back-off pulling image "finephrase/engine:0.1.0"' in str(raised)
    assert api.all("pods") == []


@pytest.mark.parametrize(
    ("error", "orders"),
    [
        (PodMisconfigured("pod engine cannot start: ErrImagePull"), [2]),
        (PodLost("pod engine was killed"), [2]),
        (PodFailed("pod engine ended with exit code 1"), [2, 1, 1]),
    ],
)
def test_prompts_are_retried_one_by_one_only_if_one_of_them_may_be_the_cause(
    error: Exception, orders: list[int], lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def together(self: PodRephraser, lineage: Lineage, cell: Cell, given: dict[str, Artifact], log: object) -> None:
        tried.append(len(given))
        raise error

    monkeypatch.setattr(PodRephraser, "_run", together)
    cell = lineage.study.cells[0]
    with pytest.raises(type(error)):
        PodRephraser().rephrase(lineage, cell, datasets(tmp_path), log=lambda line: None)
    assert tried == orders


@pytest.mark.slow
def test_a_restart_of_the_api_server_loses_no_message_and_no_pod(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart() -> None:
        engine_pod(api)
        api.stop()
        time.sleep(1)
        api.start()

    logged, raised = send(tmp_path, monkeypatch, seconds=0.1, do=restart)
    assert raised is None
    assert [line for line in logged if line.startswith("row")] == [f"row {number}" for number in range(20)]
    assert len(api.received) == 1
    assert api.all("pods") == []


@pytest.mark.slow
def test_a_pod_that_a_killed_step_left_behind_is_deleted(api: KubernetesApi, tmp_path: Path) -> None:
    command = {"name": "engine", "image": ENGINE, "command": ["sleep", "600"]}
    body: dict[str, Any] = {"metadata": {"name": "left", "labels": LABELS}, "spec": {"containers": [command]}}
    left = api.create("pods", "finephrase", body)
    load()
    assert Pods("finephrase", LABELS).clear("synthetic/a_cell")
    assert processes_of(left) == []
    assert api.all("pods") == []
    assert not Pods("finephrase", LABELS).clear("synthetic/a_cell")
