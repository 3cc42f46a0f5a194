"""A study on a cluster: real Kubernetes clients, a substitute API whose pods are processes, real vLLM and training.

The study was materialized on this machine. Some of its artifacts are deleted, and pods make them again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import extract_data_version_from_entry

from finephrase_dagster.artifacts.artifact import Artifact
from installation import CELL, Installation
from kubernetes_api import KubernetesApi, processes_of
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
from rephrase_parts import completion, local_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

WORKER = "finephrase/worker:0.1.0"
RUN = "raw__nano__data0_model0"
SYNTHETIC, CHECKPOINT, SCORES = (
    f"make__synthetic__{CELL}",
    "make__training__checkpoint",
    "make__evaluation__benchmark_scores",
)
ONCE = {"execution": {"config": {"retries": {"disabled": {}}}}}


@dataclass
class Cluster:
    """An installation whose runs become pods."""

    made: Installation
    api: KubernetesApi
    control: Control

    def rephrasing(self, how: str) -> None:
        """Run the engines of later runs in the steps' pods (`step`) or in pods of their own (`pipes`)."""
        images = {"control": CONTROL, "engine": ENGINE, "worker": WORKER}
        path = write_cluster(self.made.root, rephrasing=how, images=images)
        assert path == self.made.root / "cluster.yaml"

    def endpoints(self, *urls: str) -> None:
        """Set the endpoints of the installation."""
        (self.made.root / "endpoints").write_text("\n".join(urls))
        environment = self.api.sources["finephrase-environment"]
        assert isinstance(environment, dict)
        environment["FINEPHRASE_ENDPOINTS"] = ",".join(urls)

    def dataset(self, prompt: str) -> Artifact:
        lineage = self.made.lineage
        return lineage.dataset(lineage.study.cells[0], prompt)

    def pods(self, run: str) -> list[dict[str, Any]]:
        """Return the pods of a run."""
        jobs = [job for job in self.api.received if run in json.dumps(job["metadata"])]
        names = {job["metadata"]["name"] for job in jobs}
        return [pod for pod in self.api.all("pods") if pod["metadata"]["labels"].get("job-name") in names]


@pytest.fixture(scope="module")
def cluster(finished: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = finished.copy(tmp_path_factory.mktemp("cluster") / "installation")
    synthetic = [f"synthetic/{CELL}/{prompt}" for prompt in ("faq", "table")]
    for taken in (*synthetic, f"training/checkpoint/{RUN}", f"evaluation/benchmark_scores/{RUN}"):
        shutil.rmtree((made.lineage.labels / taken).resolve())
    no_dagster = made.root / "no_dagster"
    for name in ("dagster", "dagster_k8s", "mlflow"):
        (no_dagster / name).mkdir(parents=True)
        (no_dagster / name / "__init__.py").write_text("raise ImportError('this image has no Dagster')\n")
    environment = {
        "FINEPHRASE_CLUSTER": str(made.root / "cluster.yaml"),
        "FINEPHRASE_STUDY": str(made.study),
        "FINEPHRASE_DATA": str(made.paths.data),
    }
    api = KubernetesApi(
        made.root,
        node=node(FINEPHRASE_STEP_HEALTH_SECONDS="1"),
        images={CONTROL: {}, ENGINE: {}, WORKER: {"PYTHONPATH": str(no_dagster)}},
        sources=sources(**environment),
    )
    with pytest.MonkeyPatch.context() as patch, api:
        for name, value in environment.items():
            patch.setenv(name, value)
        write_cluster(made.root)
        import pod_study

        with control(
            write_instance(made.root / "control", api.kubeconfig), "pod_study", pod_study.defs.get_repository_def()
        ) as plane:
            yield Cluster(made, api, plane)


def test_a_pod_killed_during_generation_is_named_and_a_pod_of_the_other_mode_resumes_its_rows(
    cluster: Cluster,
) -> None:
    with local_server() as server:
        cluster.rephrasing("step")
        cluster.endpoints(server.url)
        faq = cluster.dataset("faq")

        def answer(request: dict[str, Any]) -> Any:
            if len(server.requests) > 9:
                time.sleep(600)
            return completion("What is it? A thing.")

        server.answer = answer
        server.model = "rephraser"
        run = cluster.control.launch(SYNTHETIC, partition="faq", config=ONCE)
        until(lambda: len(server.requests) > 20, "requests are in flight")
        time.sleep(1)
        pod = until(lambda: cluster.api.pod("dagster-step"), "the step has a pod")
        cluster.api.end_pod(pod)
        assert cluster.control.wait(run) == "FAILURE"
        messages = [message for message in cluster.control.messages(run) if "was killed" in message]
        killed = f"pod {pod['metadata']['name']} was killed (SIGKILL), exit code 137"
        assert any(killed in message for message in messages)
        assert not faq.complete

        server.answer = lambda request: completion("Why?")
        cluster.rephrasing("pipes")
        run = cluster.control.launch(SYNTHETIC, partition="faq")
        assert cluster.control.wait(run) == "SUCCESS", cluster.control.messages(run)
    manifest = faq.manifest()
    assert manifest["rows_in"] == 24
    assert manifest["completed"] + manifest["skipped"] + manifest["failed"] == 24
    kept = [row for row in rows(faq) if row["text"] == "What is it? A thing."]
    assert len(kept) == 9
    (order,) = [pod for pod in cluster.api.received if pod["kind"] == "Pod"]
    assert order["spec"]["containers"][0]["image"] == WORKER
    assert order["spec"]["containers"][0]["command"] == ["python3", "-m", "finephrase_dagster.rephrase.worker"]
    assert cluster.api.pod("dagster-" + run[:18]) is None, "the engine's pod is deleted"


def test_what_an_endpoint_wrote_does_not_pass_as_the_generators_dataset(cluster: Cluster) -> None:
    cluster.endpoints()
    faq = cluster.dataset("faq")
    assert not faq.complete
    cluster.rephrasing("pipes")
    run = cluster.control.launch(SYNTHETIC, partition="faq")
    assert cluster.control.wait(run) == "SUCCESS", cluster.control.messages(run)
    assert any("starting an engine for rephraser" in message for message in cluster.control.messages(run))
    assert "What is it? A thing." not in {row["text"] for row in rows(faq)}


def rows(artifact: Artifact) -> list[dict[str, Any]]:
    return [row for file in artifact.folder.glob("part-*.parquet") for row in pq.read_table(file).to_pylist()]


def test_a_synthetic_partition_is_materialized_in_the_pod_of_its_step(cluster: Cluster) -> None:
    cluster.rephrasing("step")
    run = cluster.control.launch(SYNTHETIC, partition="table")
    assert cluster.control.wait(run) == "SUCCESS", cluster.control.messages(run)
    assert cluster.dataset("table").complete
    key = dg.AssetKey(["synthetic", CELL])
    record = cluster.control.instance.get_latest_data_version_record(key, False, "table")
    version = extract_data_version_from_entry(record.event_log_entry) if record else None
    assert version is not None
    assert version.value == cluster.dataset("table").version
    (image,) = [
        job["spec"]["template"]["spec"]["containers"][0]["image"]
        for job in cluster.api.received
        if job["metadata"]["labels"].get("dagster/run-id") == run and "dagster/op" in job["metadata"]["labels"]
    ]
    assert image == ENGINE


def test_a_student_is_trained_and_scored_in_pods(cluster: Cluster) -> None:
    for job in (CHECKPOINT, SCORES):
        run = cluster.control.launch(job, partition=RUN)
        assert cluster.control.wait(run) == "SUCCESS", cluster.control.messages(run)
    lineage = cluster.made.lineage
    assert lineage.checkpoint(RUN).complete
    assert 0 < lineage.scores(RUN).manifest()["macro"] < 1


def test_no_process_of_a_pod_outlives_it(cluster: Cluster) -> None:
    until(lambda: all(pod["status"]["phase"] != "Running" for pod in cluster.api.all("pods")), "all pods have ended")
    assert [pod["metadata"]["name"] for pod in cluster.api.all("pods") if processes_of(pod)] == []


def test_every_request_is_valid_and_allowed_by_the_role(cluster: Cluster) -> None:
    check_manifests(cluster.api.received)
    check_access(cluster.api.asked)
