"""Students on several nodes: an indexed Job on a substitute API, a substitute for nanotron, and torchrun."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.orchestration.retries import is_infrastructure
from finephrase_dagster.pods.api import Pods, load
from finephrase_dagster.pods.cluster import read_cluster
from finephrase_dagster.pods.failure import PodsBusy
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.train.job import TrainingDiverged, TrainingError
from finephrase_dagster.train.nanotron import indexed_job
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.indexed_job import IndexedJob
from kubernetes_api import KubernetesApi, processes_of
from kubernetes_parts import NANOTRON, check_access, check_manifests, node, sources, until, write_cluster
from nanotron_parts import Stand
from test_nanotron_run import Study, prepared

__all__ = ["prepared"]  # a fixture

pytestmark = pytest.mark.slow


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    with KubernetesApi(tmp_path, node=node(), images={NANOTRON: {}}, sources=sources()) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        monkeypatch.setattr(indexed_job, "POLL_SECONDS", 0.05)
        yield server


@dataclass(frozen=True)
class TwoNodes(Stand):
    """The substitute for nanotron's environment, as an image on two nodes of a cluster."""

    patience_seconds: int = 300

    @property
    def cluster(self) -> NanotronCluster:
        file = write_cluster(self.root.parent, patience_seconds=self.patience_seconds)
        pod = Pod.computing(read_cluster(file), gpus=2, image=NANOTRON)
        return replace(super().cluster, nodes=2, pod=pod)


@pytest.fixture
def two_nodes(prepared: Path, tmp_path: Path, api: KubernetesApi) -> Study:
    shutil.copytree(prepared / "stand", tmp_path / "stand")
    return Study(prepared, TwoNodes(tmp_path / "stand"), tmp_path / "mixture").on(tmp_path / "mixture", seed=0)


def left(api: KubernetesApi) -> list[str]:
    return [found["metadata"]["name"] for kind in ("jobs", "services", "pods") for found in api.all(kind)]


def running(api: KubernetesApi, index: int) -> dict[str, Any] | None:
    return next((pod for pod in api.all("pods") if pod["spec"].get("hostname", "").endswith(f"-{index}")), None)


def in_mid_run(api: KubernetesApi, output: Path, do: Callable[[], None]) -> None:
    """Do something in another thread once ten steps are trained."""

    def act() -> None:
        until(lambda: list(output.glob("work/*/checkpoints/10/model_config.json")), "a checkpoint is written")
        do()

    threading.Thread(target=act, daemon=True).start()


def test_two_nodes_train_as_one_indexed_job_and_leave_nothing_behind(
    two_nodes: Study, api: KubernetesApi, tmp_path: Path
) -> None:
    facts = two_nodes.train(tmp_path / "output")
    assert (facts.steps, facts.gpus, facts.resumed_from, len(facts.curve)) == (40, 4, 0, 40)
    assert (tmp_path / "output" / "model" / "model.safetensors").is_file()
    assert left(api) == []
    service, job = (next(body for body in api.received if body["kind"] == kind) for kind in ("Service", "Job"))
    name = job["metadata"]["name"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (
        "Indexed",
        2,
        2,
        0,
    )
    command = pod["containers"][0]["command"]
    assert command[command.index("--nnodes") + 1] == "2"
    assert command[command.index("--node-rank") + 1] == "$(JOB_COMPLETION_INDEX)"
    assert command[command.index("--master-addr") + 1] == f"{name}-0.{service['metadata']['name']}"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert pod["automountServiceAccountToken"] is False
    check_manifests(api.received)
    check_access(api.asked)


def test_a_failed_run_names_its_pod_and_the_last_lines_of_nanotrons_log(
    two_nodes: Study, api: KubernetesApi, tmp_path: Path
) -> None:
    two_nodes.stand.behave(fail_at=15)
    with pytest.raises(
        TrainingError, match=r"(?s)pod finephrase-train-\w+-0-\d+ ended with exit code 1.*illegal memory"
    ):
        two_nodes.train(tmp_path / "output")
    assert left(api) == []


def test_the_loss_of_a_node_ends_all_nodes_and_the_run_resumes(
    two_nodes: Study, api: KubernetesApi, tmp_path: Path
) -> None:
    two_nodes.stand.behave(seconds=0.05)
    output = tmp_path / "output"
    lost: list[str] = []

    def lose() -> None:
        pod = running(api, 1)
        assert pod is not None
        lost.append(pod["metadata"]["name"])
        api.end_pod(pod, "Evicted")

    in_mid_run(api, output, lose)
    with pytest.raises(TrainingError) as raised:
        two_nodes.train(output)
    assert f"pod {lost[0]} was removed from its node: Evicted (The node was low on resource: memory.)" in str(
        raised.value
    )
    assert is_infrastructure(raised.value), "the step is retried"
    assert left(api) == []
    two_nodes.stand.behave()
    assert two_nodes.train(output).resumed_from >= 10


def test_a_node_that_runs_out_of_memory_is_not_retried(two_nodes: Study, api: KubernetesApi, tmp_path: Path) -> None:
    two_nodes.stand.behave(seconds=0.05)
    in_mid_run(api, tmp_path / "output", lambda: api.end_pod(running(api, 0) or {}, "OOMKilled"))
    with pytest.raises(TrainingError, match=r"-0-\d+ ran out of memory \(OOMKilled\)\. Raise 'memory'") as raised:
        two_nodes.train(tmp_path / "output")
    assert not is_infrastructure(raised.value)


def test_a_restart_of_the_api_server_does_not_affect_the_training(
    two_nodes: Study, api: KubernetesApi, tmp_path: Path
) -> None:
    two_nodes.stand.behave(seconds=0.05)
    output = tmp_path / "output"

    def restart() -> None:
        api.stop()
        time.sleep(1)
        api.start()

    in_mid_run(api, output, restart)
    facts = two_nodes.train(output)
    assert (facts.resumed_from, len(facts.curve)) == (0, 40)
    assert len(api.received) == 2, "one service and one Job"
    assert left(api) == []


def test_a_diverged_run_ends_its_job(two_nodes: Study, api: KubernetesApi, tmp_path: Path) -> None:
    two_nodes.stand.behave(diverge_at=5, seconds=0.1)
    with pytest.raises(TrainingDiverged):
        two_nodes.train(tmp_path / "output")
    assert left(api) == []


def test_a_missing_image_is_named(two_nodes: Study, api: KubernetesApi, tmp_path: Path) -> None:
    api.images.clear()
    hasty = replace(two_nodes, stand=TwoNodes(tmp_path / "stand", patience_seconds=0))
    with pytest.raises(TrainingError, match=r"cannot start: ImagePullBackOff.*finephrase/nanotron:0.1.0.*'images'"):
        hasty.train(tmp_path / "output")
    assert left(api) == []


def test_a_job_that_a_killed_process_left_behind_is_deleted_before_the_run_resumes(
    two_nodes: Study, api: KubernetesApi, tmp_path: Path
) -> None:
    two_nodes.stand.behave(seconds=0.2)
    output = tmp_path / "output"
    script = f"""
from pathlib import Path
import test_kubernetes_training as t
root = Path({str(tmp_path)!r})
t.Study(Path({str(two_nodes.root)!r}), t.TwoNodes(root / "stand"), root / "mixture").train(root / "output")
"""
    killed = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent)
    until(lambda: list(output.glob("work/*/checkpoints/10/model_config.json")), "a checkpoint is written", seconds=120)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    orphans = api.all("pods")
    assert len(orphans) == 2
    assert all(processes_of(pod) for pod in orphans), "the nodes continue training"
    two_nodes.stand.behave()
    facts = two_nodes.train(output)
    assert facts.resumed_from >= 10
    assert two_nodes.messages[0] == "deleted the Kubernetes Job of an earlier attempt"
    assert not [pod for pod in orphans if processes_of(pod)]
    assert left(api) == []


def test_pods_of_a_running_owner_are_not_deleted(api: KubernetesApi, tmp_path: Path) -> None:
    def sleeping(name: str, **metadata: Any) -> dict[str, Any]:
        container = {"name": "c", "image": NANOTRON, "command": ["sleep", "60"]}
        return api.create(
            "pods",
            "finephrase",
            {
                "metadata": {"name": name, **metadata},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
                "kind": "Pod",
            },
        )

    owner = sleeping("driver")
    labels = {"finephrase/training": "x"}
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "driver", "uid": owner["metadata"]["uid"]}
    sleeping("node", labels=labels, ownerReferences=[reference])
    load()
    pods = Pods("finephrase", labels)
    with pytest.raises(PodsBusy, match="is being materialized by pod node, started by pod driver"):
        pods.clear("the training")
    api.end_pod(owner)
    assert pods.clear("the training")
    assert [pod["metadata"]["name"] for pod in api.all("pods")] == ["driver"]


def test_torchrun_finds_its_peers_through_the_service_and_rank_zero_is_index_zero(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "run_train.py").write_text(
        "import os, torch.distributed as dist, torch\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.tensor([dist.get_rank() + 1])\n"
        "dist.all_reduce(total)\n"
        "if dist.get_rank() == 0:\n"
        "    print('node', os.environ['JOB_COMPLETION_INDEX'], 'of', dist.get_world_size(), 'sum', total.item())\n"
        "dist.destroy_process_group()\n"
    )
    python = Path(sys.executable)
    monkeypatch.setattr(indexed_job, "PORT", 29517)
    pod = Pod.computing(read_cluster(write_cluster(tmp_path)), image=NANOTRON)
    cluster = NanotronCluster(python=python, source=tmp_path, nodes=2, gpus=1, pod=pod)
    lines: list[str] = []
    IndexedJob(pod, folder).run(cluster, run="abc", on_line=lines.append)
    assert "node 0 of 2 sum 3" in lines
    assert os.environ["KUBECONFIG"] == str(api.kubeconfig)
    assert left(api) == []
