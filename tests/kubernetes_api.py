"""A substitute for a Kubernetes API server: real HTTP on 127.0.0.1, and each pod's command runs as a process here.

It knows pods, Jobs (indexed ones too), services, logs, owners, and how pods die. What it is not: a scheduler; every
pod starts at once, whatever it asks for. Volumes are folders of this machine under the paths that pods know them by.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import yaml

from kubernetes_http import Object, Refused, Server
from kubernetes_jobs import JobController, now

LOCALHOST = "127.0.0.1"
MARK = "STAND_IN_POD"  # marks a pod's processes
KINDS = {"pods": ("v1", "Pod"), "services": ("v1", "Service"), "events": ("v1", "Event"), "jobs": ("batch/v1", "Job")}


@dataclass
class Running:
    """A pod's process and its log lines, each with its time."""

    process: subprocess.Popen[bytes]
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    fate: str | None = None
    over: threading.Event = field(default_factory=threading.Event)


class KubernetesApi:
    """The server and its pods; a context manager that leaves nothing behind.

    Args:
        root: where `kubeconfig` is written.
        node: variables that every process needs on this machine, such as PATH.
        images: variables by image, for what an image brings along; an image that is not here cannot be pulled.
        sources: what config maps and secrets hold, by name.

    Attributes:
        received: every manifest that was to be created.
        asked: every verb, API group and resource that was asked for.
    """

    def __init__(
        self,
        root: Path,
        *,
        node: Mapping[str, str],
        images: Mapping[str, Mapping[str, str]],
        sources: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.images = dict(images)
        self.sources = dict(sources or {})
        self.received: list[Object] = []
        self.asked: set[tuple[str, str, str]] = set()
        self.kubeconfig = root / "kubeconfig"
        self._node = {**node, "KUBECONFIG": str(self.kubeconfig)}
        self.objects: dict[tuple[str, str, str], Object] = {}
        self._running: dict[str, Running] = {}
        self._lock = threading.RLock()
        self._server: Server | None = None
        self._port = 0
        self._jobs = JobController(self)

    def __enter__(self) -> KubernetesApi:
        self.start()
        cluster = {"name": "c", "cluster": {"server": f"http://{LOCALHOST}:{self._port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "finephrase"}}
        config = {"clusters": [cluster], "contexts": [context], "current-context": "c"}
        user = {"name": "u", "user": {"token": "t"}}
        self.kubeconfig.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "users": [user], **config}))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for running in list(self._running.values()):
            running.process.kill()
            running.over.wait(10)

    def start(self) -> None:
        """Start to answer, after `stop` on the same port as before."""
        self._server = Server((LOCALHOST, self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop answering and break open connections; pods continue."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def all(self, kind: str) -> list[Object]:
        with self._lock:
            return [json.loads(json.dumps(value)) for (of, _, _), value in self.objects.items() if of == kind]

    def pod(self, begins: str) -> Object | None:
        """Return the newest pod whose name has a prefix."""
        return next((pod for pod in reversed(self.all("pods")) if pod["metadata"]["name"].startswith(begins)), None)

    def process(self, pod: Object) -> subprocess.Popen[bytes]:
        return self._running[pod["metadata"]["uid"]].process

    def end_pod(self, pod: Object, reason: str = "Error") -> None:
        """Kill a pod's processes, as the kernel (OOMKilled), the node (Evicted) or a person (Error) does."""
        running = self._running[pod["metadata"]["uid"]]
        running.fate = reason
        _kill_all(pod["metadata"]["uid"])
        running.over.wait(10)

    # --- what requests do

    def create(self, kind: str, namespace: str, body: Object) -> Object:
        with self._lock:
            api, name = KINDS[kind]
            self.received.append(json.loads(json.dumps({"apiVersion": api, "kind": name, **body})))
            return self.make(kind, namespace, body)

    def make(self, kind: str, namespace: str, body: Object) -> Object:
        key = (kind, namespace, body["metadata"]["name"])
        if key in self.objects:
            raise Refused(409, "AlreadyExists", f"{kind} {key[2]!r} already exists")
        api, name = KINDS[kind]
        body |= {"apiVersion": api, "kind": name}
        body["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        self.objects[key] = body
        if kind == "jobs":
            self._jobs.start(body)
        if kind == "pods":
            self._start_pod(body)
        return body

    def find(self, kind: str, namespace: str, name: str) -> Object:
        with self._lock:
            if (kind, namespace, name) not in self.objects:
                raise Refused(404, "NotFound", f'{kind} "{name}" not found')
            return self.objects[kind, namespace, name]

    def listed(self, kind: str, namespace: str, query: Mapping[str, str]) -> Object:
        labels = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
        fields = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
        with self._lock:
            found = [
                value
                for (of, place, name), value in self.objects.items()
                if (of, place) == (kind, namespace)
                and labels.items() <= value["metadata"].get("labels", {}).items()
                and fields.get("metadata.name", name) == name
                and "involvedObject.name" not in fields
            ]
            api, name = KINDS[kind]
            return {"kind": f"{name}List", "apiVersion": api, "metadata": {}, "items": found}

    def delete(self, kind: str, namespace: str, name: str, policy: str | None) -> Object:
        found = self.find(kind, namespace, name)
        if kind == "pods":
            found["metadata"]["deletionTimestamp"] = now()
            threading.Thread(target=self._end, args=(found,), daemon=True).start()
        else:
            # The API's rule: deleting a Job without a policy keeps its pods.
            orphans = policy == "Orphan" or (kind == "jobs" and policy is None)
            self._remove(kind, found, orphans=orphans)
        return found

    def _remove(self, kind: str, gone: Object, *, orphans: bool = False) -> None:
        with self._lock:
            self.objects.pop((kind, gone["metadata"]["namespace"], gone["metadata"]["name"]), None)
            for (of, namespace, name), value in list(self.objects.items()):
                owners = value["metadata"].get("ownerReferences", [])
                if gone["metadata"]["uid"] in {owner["uid"] for owner in owners}:
                    if orphans:
                        value["metadata"]["ownerReferences"] = []
                    else:
                        self.delete(of, namespace, name, "Background")

    def _end(self, pod: Object) -> None:
        """End a pod as the kubelet does: SIGTERM for the command, then SIGKILL for all that is left."""
        running = self._running.get(pod["metadata"]["uid"])
        if running:
            with contextlib.suppress(ProcessLookupError):
                running.process.terminate()
            running.over.wait(pod["spec"].get("terminationGracePeriodSeconds", 30))
            _kill_all(pod["metadata"]["uid"])
            running.over.wait(10)
        self._remove("pods", pod)

    def admit(self, job: Object) -> None:
        """Start a suspended Job, as Kueue does when its queue has room."""
        with self._lock:
            admitted = self.objects["jobs", job["metadata"]["namespace"], job["metadata"]["name"]]
            admitted["spec"]["suspend"] = False
            self._jobs.start(admitted)

    # --- pods

    def _start_pod(self, pod: Object) -> None:
        (container,) = pod["spec"]["containers"]
        waiting = self._flaw(container)
        if waiting:
            self._say(pod, "Pending", {"waiting": waiting})
            return
        environment = self._environment(pod, container)
        command = [_expanded(word, environment) for word in [*container.get("command", []), *container.get("args", [])]]
        running = Running(
            subprocess.Popen(
                [self._resolved(word) for word in command],
                env=environment,
                cwd=container.get("workingDir"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        self._running[pod["metadata"]["uid"]] = running
        self._say(pod, "Running", {"running": {"startedAt": now()}})
        threading.Thread(target=self._watch, args=(pod, running), daemon=True).start()

    def _flaw(self, container: Object) -> Object | None:
        if container["image"] not in self.images:
            message = f'Back-off pulling image "{container["image"]}"'
            return {"reason": "ImagePullBackOff", "message": message}
        for source in container.get("envFrom", []):
            name = next(iter(source.values()))["name"]
            if name not in self.sources:
                return {"reason": "CreateContainerConfigError", "message": f'configmap or secret "{name}" not found'}
        return None

    def _environment(self, pod: Object, container: Object) -> dict[str, str]:
        meta = pod["metadata"]
        environment = {**self._node, **self.images[container["image"]], MARK: meta["uid"]}
        environment["HOSTNAME"] = pod["spec"].get("hostname", meta["name"])
        for source in container.get("envFrom", []):
            environment |= self.sources[next(iter(source.values()))["name"]]
        for variable in container.get("env", []):
            if "valueFrom" not in variable:
                environment[variable["name"]] = _expanded(variable.get("value") or "", environment)
            elif path := variable["valueFrom"].get("fieldRef", {}).get("fieldPath"):
                environment[variable["name"]] = meta[path.removeprefix("metadata.")]
            else:
                (reference,) = variable["valueFrom"].values()
                environment[variable["name"]] = self.sources[reference["name"]][reference["key"]]
        return environment

    def _resolved(self, word: str) -> str:
        """Resolve as the cluster's DNS does: a host of a headless service is this machine."""
        for service in self.all("services"):
            word = re.sub(rf"[\w-]+\.{re.escape(service['metadata']['name'])}(\.[\w.-]+)?", LOCALHOST, word)
        return word

    def _watch(self, pod: Object, running: Running) -> None:
        assert running.process.stdout is not None
        for line in running.process.stdout:
            last = running.lines[-1][0] if running.lines else 0
            running.lines.append((max(time.time_ns(), last + 1), line.rstrip(b"\n")))
        code = running.process.wait()
        _kill_all(pod["metadata"]["uid"])  # what a container started ends with it
        with self._lock:
            exit_code = code if code >= 0 else 128 - code
            reason = running.fate or ("Completed" if code == 0 else "Error")
            evicted = reason == "Evicted"
            ended = {"exitCode": exit_code, "reason": "Error" if evicted else reason, "finishedAt": now()}
            self._say(pod, "Failed" if exit_code else "Succeeded", {"terminated": ended})
            if evicted:
                message = "The node was low on resource: memory."
                condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
                pod["status"] |= {"reason": reason, "message": message, "conditions": [condition]}
            self._jobs.count(pod)
        running.over.set()

    def _say(self, pod: Object, phase: str, state: Object) -> None:
        (container,) = pod["spec"]["containers"]
        pod["status"] = {
            "phase": phase,
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": phase == "Running",
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }

    def log(self, namespace: str, name: str, query: Mapping[str, str], heard: Callable[[], bool]) -> Iterator[bytes]:
        """Yield a pod's log lines; if it is followed, also later ones while the client is connected."""
        pod = self.find("pods", namespace, name)
        running = self._running.get(pod["metadata"]["uid"])
        if running is None:
            raise Refused(400, "BadRequest", f'container in pod "{name}" is waiting to start: PodInitializing')
        since = (time.time() - float(query.get("sinceSeconds", "inf"))) * 1e9
        sent = max(0, len(running.lines) - int(query["tailLines"])) if "tailLines" in query else 0
        while heard():
            over = running.over.is_set() or query.get("follow", "").lower() != "true"
            for moment, line in running.lines[sent:]:
                sent += 1
                if moment >= since:
                    second = datetime.fromtimestamp(moment // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
                    stamp = f"{second}.{moment % 10**9:09d}Z ".encode()  # unique, so that no two lines look the same
                    yield (stamp if query.get("timestamps", "").lower() == "true" else b"") + line + b"\n"
            if over:
                return
            time.sleep(0.02)
        raise ConnectionAbortedError


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), text)


def processes_of(pod: Object) -> list[psutil.Process]:
    """Return the running processes of a pod."""
    return _processes(pod["metadata"]["uid"])


def _processes(uid: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            of_pod = process.pid != os.getpid() and process.environ().get(MARK) == uid
            if of_pod and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _kill_all(uid: str) -> None:
    for process in _processes(uid):
        with contextlib.suppress(psutil.Error):
            process.kill()
