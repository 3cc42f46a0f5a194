"""The rephraser of a cluster whose engines have pods of their own, without Dagster: told through Pipes what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.pods.cluster import Cluster, cluster_from_environment
from finephrase_dagster.pods.failure import PodFailed, PodLost, pod_failure
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.spec import Cell
from resources.rephraser import Rephraser

if TYPE_CHECKING:
    from dagster_k8s import PipesK8sClient

    from finephrase_dagster.pods.api import Pods
    from finephrase_dagster.rephrase.order import Order

COMMAND = ["python3", "-m", "finephrase_dagster.rephrase.worker"]
LAST_LINES = 20
MESSAGE = '{"__dagster_pipes_version"'  # begins the lines of a log that are Pipes' own


class PodRephraser(Rephraser):
    """A pod with an engine for every order; how large it is, the generator and the cluster file say."""

    poll_seconds: float = Field(default=5.0, gt=0, description="between two looks at the pod")

    def _together(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """As of `Rephraser`.

        Raises:
            PodFailed, PodLost: naming the pod and the cause.
            PodsBusy: another step makes the same datasets.
        """
        from finephrase_dagster.pods.api import Pods, load

        order = self._order(lineage, cell, datasets)
        if order.done:
            return order.manifests()
        cluster = cluster_from_environment()
        assert cluster is not None, "FINEPHRASE_CLUSTER names no cluster"
        load()
        folders = sorted(str(work.folder) for work in order.datasets.values())
        pods = Pods(cluster.namespace, {"finephrase/order": fingerprint(folders)[:SHORT]})
        if pods.clear(f"synthetic/{cell.name}"):
            log("ended the pod of an earlier attempt; its finished rows are kept")
        self.send(order, cluster, pods)
        return self._made(order, lineage)

    def send(self, order: Order, cluster: Cluster, pods: Pods) -> None:
        """Has an order carried out by a pod, of which nothing is left afterwards, however that ends.

        Raises:
            PodFailed, PodLost: naming the pod and the cause, with its last words.
        """
        from dagster_k8s.client import DagsterK8sError

        from finephrase_dagster.rephrase.worker import ORDER

        pod = Pod.of(cluster, order.generator, image=cluster.images.worker)
        container = {"name": "engine", "command": COMMAND, **pod.container()}
        try:
            self._client().run(
                context=dg.AssetExecutionContext.get(),
                extras={ORDER: order.model_dump(mode="json")},
                namespace=cluster.namespace,
                base_pod_meta={"labels": pods.labels, "ownerReferences": pods.owner()},
                base_pod_spec={**pod.spec(), "automountServiceAccountToken": False, "containers": [container]},
                delete_pod_on_completion=False,  # else it could not be asked why it failed
            )
        except DagsterK8sError as error:
            raise _failure(pods, error) from error
        finally:
            pods.remove()

    def _client(self) -> PipesK8sClient:
        from dagster_k8s import PipesK8sClient

        from finephrase_dagster.pods.api import load

        class Client(PipesK8sClient):
            def _load_k8s_config(self) -> None:
                load()

        return Client(poll_interval=float(self.poll_seconds))

    @staticmethod
    def _made(order: Order, lineage: Lineage) -> dict[str, dict[str, Any]]:
        made = order.manifests()
        if missing := sorted(set(order.datasets) - set(made)):
            raise PodFailed(
                f"the pod says that it is done, and {order.datasets[missing[0]].folder} is not complete here: mount "
                f"the volume that holds {lineage.paths.data} in all pods ('volumes' in the cluster file)"
            )
        return made


def _failure(pods: Pods, error: Exception) -> Exception:
    """Return the error that says why the pod failed, with the last lines of its log."""
    for pod in pods.list():
        if failure := pod_failure(pod):
            lines = [line for line in pods.last_lines(pod.metadata.name, LAST_LINES) if not line.startswith(MESSAGE)]
            details = "\nLast lines of its log:\n" + "\n".join(lines) if lines else ""
            return failure.error(f". Finished rows are kept.{details}")
    return PodLost(f"the engine's pod does not exist any more, or never did: {error}. Finished rows are kept.")
