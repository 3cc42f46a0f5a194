"""The workers of a cell as the pods of an indexed Job: killed, evicted, given up, admitted by a queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.retries import is_infrastructure
from finephrase_dagster.pods.failure import PodFailed, PodLost, PodMisconfigured
from finephrase_dagster.production import pod_workers
from finephrase_dagster.production.pod_workers import JOB, QUEUE
from finephrase_dagster.production.worker import _job_in_file
from finephrase_dagster.rephrase.job import RephraseJob
from finephrase_dagster.rephrase.model_source import EngineSpec, JobInvalid
from kubernetes_api import KubernetesApi, Object
from kubernetes_jobs import INDEX, INDEX_FAILURES
from kubernetes_parts import ENGINE, VERSIONS, check_access, check_manifests, node, sources, until, write_cluster
from rephrase_parts import LocalServer, generator
from resources.pod_rephraser import PodRephraser
from test_workers import Answers, _short_pauses, answers, check_datasets, files, job_of, server

__all__ = ["_short_pauses", "answers", "files", "server"]  # fixtures

SINCE = VERSIONS[1:]
"""Versions of Kubernetes that have `backoffLimitPerIndex`."""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    environment = {"FINEPHRASE_CLUSTER": str(tmp_path / "cluster.yaml")}
    with KubernetesApi(tmp_path, node=node(), images={ENGINE: {}}, sources=sources(**environment)) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
        monkeypatch.setenv("FINEPHRASE_CLUSTER", environment["FINEPHRASE_CLUSTER"])
        monkeypatch.setattr("finephrase_dagster.pods.api.POLL_SECONDS", 0.05)
        yield running


class Cell:
    """A cell of two datasets, which is run with two pods."""

    def __init__(self, root: Path, job: RephraseJob, lineage: Lineage, **cluster: Any) -> None:
        self.output, self.lines, self._lineage = root / "out", list[str](), lineage
        write_cluster(root, rephrasing="pipes", images={"control": ENGINE, "engine": ENGINE}, **cluster)
        engine = EngineSpec(generator=generator(), model=root / "model", log=root / "engine.log")

        class OfATest(PodRephraser):
            def _job(self, lineage: Any, cell: Any, datasets: Any) -> RephraseJob:
                return job.model_copy(update={"engine": engine})

        self._rephraser = OfATest(workers=2, poll_seconds=0.1)

    def run(self, meanwhile: Callable[[], None] = lambda: None) -> dict[str, dict[str, Any]]:
        thread = threading.Thread(target=meanwhile, daemon=True)
        thread.start()
        try:
            return self._rephraser._run(self._lineage, self._lineage.study.cells[0], {}, self.lines.append)
        finally:
            thread.join(60)

    def logged(self, words: str) -> bool:
        return any(words in line for line in self.lines)


@pytest.fixture
def cell(tmp_path: Path, files: tuple[str, ...], server: LocalServer, lineage: Lineage) -> Cell:
    return Cell(tmp_path, job_of(tmp_path / "out", files, server.url), lineage)


def pod_of(api: KubernetesApi, index: int) -> Object | None:
    """Return the running pod of an index."""
    pods = [pod for pod in api.all("pods") if pod["metadata"]["labels"][INDEX] == str(index)]
    return next((pod for pod in pods if pod["status"]["phase"] == "Running"), None)


def check_nothing_is_left(api: KubernetesApi, cell: Cell) -> None:
    assert api.all("pods") == api.all("jobs") == []
    assert not list(cell.output.rglob(Path(JOB).name))


def slow_down(server: LocalServer, seconds: float) -> None:
    answer = server.answer
    server.answer = lambda request: time.sleep(seconds) or answer(request)  # type: ignore[func-returns-value]


@pytest.mark.slow
def test_a_killed_and_an_evicted_pod_are_replaced_and_every_row_is_written_once(
    api: KubernetesApi, cell: Cell, tmp_path: Path, server: LocalServer, answers: Answers
) -> None:
    slow_down(server, 0.1)
    failures: list[str] = []

    def lose() -> None:
        for index, reason, requests in ((0, "Error", 20), (1, "Evicted", 60)):
            until(lambda count=requests: len(server.requests) > count, "requests are sent")
            lost = pod_of(api, index)
            assert lost is not None
            api.end_pod(lost, reason)
            new = until(lambda index=index: pod_of(api, index), "the pod is replaced")
            failures.append(new["metadata"]["annotations"][INDEX_FAILURES])

    manifests = cell.run(lose)
    check_datasets(tmp_path / "out", manifests)
    assert failures == ["1", "0"], "an eviction is not counted"
    assert answers.repeated <= 8  # what was in flight
    assert cell.logged("was killed (SIGKILL), exit code 137. Finished rows are kept.")
    assert cell.logged("was removed from its node: Evicted (The node was low on resource: memory.)")
    check_nothing_is_left(api, cell)
    check_access(api.asked)


@pytest.mark.slow
def test_a_job_waits_for_its_queue_and_each_of_its_pods_is_one_worker(
    api: KubernetesApi, cell: Cell, tmp_path: Path, server: LocalServer, answers: Answers
) -> None:
    write_cluster(tmp_path, rephrasing="pipes", images={"control": ENGINE, "engine": ENGINE}, kueue_queue="gpus")
    slow_down(server, 0.1)
    pods: list[Object] = []

    def admit() -> None:
        until(lambda: cell.logged("workers: waiting for admission by queue gpus"), "the Job waits")
        pods.extend(api.all("pods"))
        api.admit(api.all("jobs")[0])
        until(lambda: cell.logged("workers: 2 running"), "the pods run")

    manifests = cell.run(admit)
    check_datasets(tmp_path / "out", manifests)
    assert pods == []
    assert (answers.repeated, manifests["plain"]["run"]["workers"]) == (0, 2)
    (job,) = api.received
    assert job["metadata"]["labels"].items() >= {QUEUE: "gpus"}.items()
    spec = job["spec"]
    assert (spec["suspend"], spec["completions"], spec["parallelism"]) == (True, 2, 2)
    assert spec["template"]["spec"]["automountServiceAccountToken"] is False
    assert QUEUE not in spec["template"]["metadata"]["labels"]
    check_manifests(api.received, SINCE)
    check_access(api.asked)
    check_nothing_is_left(api, cell)


@pytest.mark.slow
def test_when_an_index_is_given_up_the_other_pod_writes_all_rows(
    api: KubernetesApi, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers
) -> None:
    script = (
        "import os, runpy, sys\n"
        "os.environ['JOB_COMPLETION_INDEX'] == '0' and sys.exit('no such device')\n"
        "runpy.run_module('finephrase_dagster.production.worker', run_name='__main__')"
    )
    monkeypatch.setattr(pod_workers, "COMMAND", ("python3", "-c", script))
    check_datasets(tmp_path / "out", cell.run())
    assert answers.repeated == 0
    assert cell.logged("ended with exit code 1. Finished rows are kept.\nLast lines of its log:\nno such device")
    assert cell.logged("workers: 1 failed, 1 running")


def pretend(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(pod_workers, "COMMAND", ("python3", "-c", script))
    monkeypatch.setattr(pod_workers, "RESTARTS", 1)


@pytest.mark.parametrize(("status", "indexes", "kind"), [(1, [0, 1], PodFailed), (75, [0, 0, 1, 1], PodLost)])
def test_when_all_indexes_fail_the_error_has_a_pods_last_lines(
    api: KubernetesApi,
    cell: Cell,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    indexes: Sequence[int],
    kind: type[Exception],
) -> None:
    pretend(monkeypatch, f"import sys; print('the end of it'); sys.exit({status})")
    with pytest.raises(kind, match=rf"(?s)exit code {status}\. Finished rows.*the end of it") as raised:
        cell.run()
    assert is_infrastructure(raised.value) == (kind is PodLost)
    assert sum("ended with exit code" in line for line in cell.lines) == len(indexes)
    assert sorted(int(line.split("-")[3]) for line in cell.lines if "ended with" in line) == list(indexes)
    check_nothing_is_left(api, cell)


@pytest.mark.slow
def test_a_deleted_job_is_reported(api: KubernetesApi, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "import time; time.sleep(600)")

    def delete() -> None:
        until(lambda: cell.logged("workers: 2 running"), "the pods run")
        (job,) = api.all("jobs")
        api.delete("jobs", job["metadata"]["namespace"], job["metadata"]["name"], "Background")

    with pytest.raises(PodLost, match=r"is deleted, but rows are left|was terminated"):
        cell.run(delete)
    check_nothing_is_left(api, cell)


def test_pods_that_cannot_start_are_named(api: KubernetesApi, cell: Cell, tmp_path: Path) -> None:
    write_cluster(tmp_path, rephrasing="pipes", images={"control": ENGINE, "engine": ENGINE}, patience_seconds=0)
    api.images.clear()
    with pytest.raises(PodMisconfigured, match="cannot start: ImagePullBackOff"):
        cell.run()
    check_nothing_is_left(api, cell)


def test_a_pods_engine_has_a_log_of_its_own_and_a_missing_job_is_named(
    tmp_path: Path, files: tuple[str, ...], server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineSpec(generator=generator(), model=tmp_path / "model", log=tmp_path / "engine.log")
    path = tmp_path / "job.json"
    with pytest.raises(JobInvalid, match=r"job\.json: no such file\. Mount the volume"):
        _job_in_file(path)
    path.write_text(job_of(tmp_path / "out", files, server.url, engine=engine).model_dump_json())
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    job = _job_in_file(path)
    assert job.engine is not None
    assert job.engine.log == tmp_path / "engine-4.log"
