"""The cluster file and the pods of generators: sizes by their GPUs, and errors that name a field."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from kubernetes.client import (
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStateWaiting,
    V1ContainerStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodCondition,
    V1PodStatus,
)

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration import placement
from finephrase_dagster.pods.cluster import Cluster, read_cluster
from finephrase_dagster.pods.failure import pod_failure, waits_for
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.file import StudyError, read_registry
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.paths import REPOSITORY
from kubernetes_parts import DEPLOY, ENGINE, write_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return read_cluster(write_cluster(tmp_path))


def generator(name: str, **engine: Any) -> Generator:
    """Return a generator of the registry with other engine flags."""
    fields = read_registry("generators")[name]
    own = {"sampling": {"seed": 0, **fields["sampling"]}, "max_tokens": 2048}
    return Generator.model_validate({**fields, **own, "engine": {**fields["engine"], **engine}})


def test_a_small_generator_gets_one_gpu_and_no_shared_memory(cluster: Cluster) -> None:
    pod = Pod.of(cluster, generator("gemma_3_1b"))
    assert (pod.gpus, pod.shared, pod.cpu) == (1, 0, 8)
    assert pod.memory == 27  # 8 + 16 + 2.5 x 1.0, rounded up
    assert pod.container()["resources"] == {
        "requests": {"cpu": "8", "memory": "27Gi", "nvidia.com/gpu": "1"},
        "limits": {"memory": "27Gi", "nvidia.com/gpu": "1"},
    }
    assert pod.spec()["nodeSelector"] == {"finephrase/pool": "gpu-1"}


def test_a_pod_has_one_gpu_per_tensor_pipeline_and_data_parallel_rank(cluster: Cluster) -> None:
    large = generator("gemma_3_12b", tensor_parallel_size=2, pipeline_parallel_size=2, data_parallel_size=2)
    pod = Pod.of(cluster, large)
    assert (pod.gpus, pod.shared) == (8, 64)
    assert pod.memory == 8 + 16 * 8 + 31 + 64  # 2.5 x 12.2 is 30.5
    assert pod.spec()["nodeSelector"] == {"finephrase/pool": "gpu-8"}
    assert pod.spec()["priorityClassName"] == "finephrase-batch"
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in pod.container()["volumeMounts"]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}} in pod.spec()["volumes"]


def test_a_generator_that_fits_on_no_node_is_refused_before_anything_starts(cluster: Cluster) -> None:
    huge = generator("gemma_3_12b", tensor_parallel_size=8, pipeline_parallel_size=2)
    with pytest.raises(StudyError, match=r"needs 16 GPUs on one node, but the largest of 'node_pools' has 8\. Lower"):
        Pod.of(cluster, huge).spec()


def test_a_cells_op_tags_hold_its_pod_settings_only_if_a_cluster_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = generator("gemma_3_1b")
    assert placement.rephrasing(one).op_tags == {}
    assert placement.executor() is dg.in_process_executor
    monkeypatch.setenv("FINEPHRASE_CLUSTER", str(write_cluster(tmp_path)))
    tags = placement.rephrasing(one).op_tags["dagster-k8s/config"]
    assert tags["container_config"]["image"] == ENGINE
    assert placement.executor().name == "k8s"
    monkeypatch.setenv("FINEPHRASE_CLUSTER", str(write_cluster(tmp_path, rephrasing="pipes")))
    tags = placement.rephrasing(one).op_tags["dagster-k8s/config"]
    assert "nvidia.com/gpu" not in tags["container_config"]["resources"]["requests"], "the engine has its own pod"


def test_the_cluster_does_not_affect_fingerprints(
    lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(lineage: Lineage) -> dict[str, str | None]:
        graph = build_defs(lineage).resolve_asset_graph()
        versions = {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()}
        return {**versions, **{name: lineage.source(name).fingerprint for name in lineage.study.sources}}

    here = named(lineage)
    monkeypatch.setenv("FINEPHRASE_CLUSTER", str(write_cluster(tmp_path)))
    assert named(lineage) == here


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"namespace": "Fine Phrase"}, "namespace: "),
        ({"images": {"control": "finephrase/control", "engine": ENGINE}}, "images.control: "),
        ({"volumes": []}, "volumes: is empty; write at least one"),
        ({"rephrasing": "pod"}, "rephrasing: is 'pod'; must be 'step' or 'pipes'"),
        ({"node_pools": [{"gpus": 0}, {"gpu": 8}]}, "node_pools[1]: unknown field 'gpu'"),
        ({"node_pools": [{"gpus": 1}, {"gpus": 8}]}, "node_pools: no pool has 'gpus: 0' for work without a device"),
        ({"memory": {"per_gpu": -1}}, "memory.per_gpu: is -1; must be greater than or equal to 0"),
    ],
)
def test_an_invalid_cluster_file_is_refused_with_file_and_field(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = write_cluster(tmp_path, **changed)
    with pytest.raises(StudyError) as raised:
        read_cluster(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_a_volume_that_appears_twice_is_refused(tmp_path: Path) -> None:
    volume = {"name": "data", "claim": "c", "path": "/data"}
    with pytest.raises(StudyError, match=r"volumes\[1\].name: data appears twice"):
        read_cluster(write_cluster(tmp_path, volumes=[volume, {**volume, "path": "/other"}]))


def test_a_missing_cluster_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r".*nowhere\.yaml: no such cluster file"):
        read_cluster(tmp_path / "nowhere.yaml")


def test_the_projects_own_cluster_file_is_valid_and_complete() -> None:
    path = DEPLOY / "kubernetes" / "cluster.yaml"
    cluster = read_cluster(path)
    assert {*yaml.safe_load(path.read_text())} == {*Cluster.model_fields}
    assert cluster.nanotron_image == "finephrase/nanotron:0.1.0"


@pytest.mark.slow
def test_the_definitions_load_without_the_libraries_that_only_a_step_needs() -> None:
    heavy = ("torch", "vllm", "kubernetes", "transformers", "datatrove", "mlflow", "pandas", "scipy.special", "altair")
    code = f"import sys, finephrase_dagster.definitions; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def pod(
    phase: str, *, ended: int | None = None, reason: str | None = None, waiting: str | None = None, **status: Any
) -> V1Pod:
    state = V1ContainerState(
        terminated=V1ContainerStateTerminated(exit_code=ended, reason=reason) if ended is not None else None,
        waiting=V1ContainerStateWaiting(reason=waiting, message="why") if waiting else None,
    )
    of = V1ContainerStatus(image="i", image_id="", name="c", ready=False, restart_count=0, state=state)
    return V1Pod(metadata=V1ObjectMeta(name="p"), status=V1PodStatus(phase=phase, container_statuses=[of], **status))


@pytest.mark.parametrize(
    ("state", "message", "retryable"),
    [
        (pod("Failed", ended=137, reason="OOMKilled"), "ran out of memory", False),
        (pod("Failed", ended=137, reason="Error"), "was killed (SIGKILL)", True),
        (pod("Failed", ended=143, reason="Error"), "was terminated (SIGTERM)", True),
        (
            pod("Failed", ended=135, reason="Error"),
            "code 135 (SIGBUS, as when /dev/shm is full)",
            False,
        ),
        (pod("Failed", ended=1, reason="Error"), "ended with exit code 1", False),
        (pod("Failed", ended=75, reason="Error"), "ended with exit code 75", True),
        (pod("Failed"), "failed: Kubernetes gives no reason", True),
        (pod("Pending", waiting="InvalidImageName"), "cannot start: InvalidImageName: why. Correct 'images'", False),
        (pod("Pending", waiting="CreateContainerConfigError"), "orrect 'environment' in the cluster file", False),
        (pod("Pending", waiting="ContainerCreating"), None, None),
        (pod("Succeeded", ended=0, reason="Completed"), None, None),
    ],
)
def test_a_pods_failure_names_the_cause_and_whether_a_retry_may_succeed(
    state: V1Pod, message: str | None, retryable: bool | None
) -> None:
    failure = pod_failure(state)
    if message is None:
        assert failure is None
    else:
        assert failure is not None
        assert message in failure.message
        assert failure.message.startswith("pod p ")
        assert failure.retryable is retryable


def test_a_pod_without_a_node_has_not_failed_and_its_reason_is_reported() -> None:
    condition = V1PodCondition(type="PodScheduled", status="False", message="0/9 nodes: 9 Insufficient nvidia.com/gpu.")
    waiting = V1Pod(metadata=V1ObjectMeta(name="p"), status=V1PodStatus(phase="Pending", conditions=[condition]))
    assert pod_failure(waiting) is None
    assert waits_for(waiting) == "pod p waits for a node: 0/9 nodes: 9 Insufficient nvidia.com/gpu."
