"""Parts for tests of pods: a cluster file, an instance whose runs become pods, and its runs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import yaml
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from finephrase_dagster.study.paths import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
CONTROL, ENGINE, NANOTRON = "finephrase/control:0.1.0", "finephrase/engine:0.1.0", "finephrase/nanotron:0.1.0"


def write_cluster(root: Path, **changed: Any) -> Path:
    """Write the project's own cluster file with one volume and the given changes."""
    fields = yaml.safe_load((DEPLOY / "kubernetes" / "cluster.yaml").read_text())
    fields["volumes"] = [{"name": "data", "claim": "finephrase-data", "path": str(root)}]
    path = root / "cluster.yaml"
    path.write_text(yaml.safe_dump({**fields, **changed}))
    return path


def write_instance(root: Path, kubeconfig: Path) -> Path:
    """Write the project's own `dagster.yaml` of a cluster, with SQLite, and the address of the substitute API."""
    settings = yaml.safe_load((DEPLOY / "kubernetes" / "dagster.yaml").read_text())
    del settings["storage"]
    launcher = settings["run_launcher"]["config"]
    launcher |= {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig), "dagster_home": str(root)}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return root


def node(**more: str) -> dict[str, str]:
    """Return the environment variables that a process needs on this machine."""
    kept = {
        name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "FINEPHRASE_DEVICE_LOCKS") if name in os.environ
    }
    tests = str(Path(__file__).parent)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    return {**kept, **quiet, "PATH": path, "PYTHONPATH": tests, **more}


@dataclass
class Control:
    """The control plane: an instance, and a code location whose runs become pods."""

    instance: dg.DagsterInstance
    workspace: Any
    repository: dg.RepositoryDefinition

    def launch(self, job: str, *, partition: str | None = None, config: Any = None) -> str:
        """Launch a run; return its id."""
        (location,) = self.workspace.code_locations
        (of_location,) = location.get_repositories().values()
        remote = of_location.get_full_job(job)
        definition = self.repository.get_job(job)
        tags = {"dagster/partition": partition} if partition else {}
        run = self.instance.create_run_for_job(
            definition,
            run_config=config or {},
            tags=tags,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
        )
        self.instance.launch_run(run.run_id, self.workspace)
        return run.run_id

    def status(self, run: str) -> str:
        found = self.instance.get_run_by_id(run)
        assert found is not None
        return found.status.value

    def wait(self, run: str, *, seconds: float = 500) -> str:
        """Wait until a run has ended; return its status."""
        until(lambda: self.status(run) in ("SUCCESS", "FAILURE", "CANCELED"), f"run {run} ends", seconds=seconds)
        return self.status(run)

    def messages(self, run: str) -> list[str]:
        """Return the messages of a run's events, including errors."""
        messages = []
        for record in self.instance.all_logs(run):
            event = record.dagster_event
            error = getattr(event.event_specific_data, "error", None) if event else None
            messages.append(f"{record.message or record.user_message}{f': {error.message}' if error else ''}")
        return messages


@contextlib.contextmanager
def control(home: Path, module: str, repository: dg.RepositoryDefinition) -> Iterator[Control]:
    """Run the control plane for a module with `defs`."""
    origin = LoadableTargetOrigin(executable_path=sys.executable, module_name=module, attribute="defs")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        with in_process_test_workspace(instance, origin, container_image=CONTROL) as workspace:
            yield Control(instance, workspace, repository)


def until(true: Callable[[], Any], what: str, *, seconds: float = 240) -> Any:
    """Wait until a condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.05)
    return found


def sources(**environment: str) -> Mapping[str, Mapping[str, str]]:
    """Return the config map and the secrets that the project's files name."""
    return {
        "finephrase-environment": environment,
        "finephrase-secrets": {"HF_TOKEN": "hf_planted"},
        "dagster-postgresql-secret": {"postgresql-password": "planted"},
    }


VERSIONS = ("1.25", "1.28", "1.31", "1.34", "1.37")
"""Versions of Kubernetes whose schemas the manifests must follow."""


def check_manifests(manifests: Iterable[Mapping[str, Any]], versions: Iterable[str] = VERSIONS) -> None:
    """Fail on a manifest that a version of Kubernetes would refuse or that has an unknown field."""
    for manifest in manifests:
        for version in versions:
            try:
                kubernetes_validate.validate(dict(manifest), version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(map(str, error.path))
                raise AssertionError(f"{manifest['kind']}, Kubernetes {version}: {place}: {error.message}") from None


def check_access(asked: Iterable[tuple[str, str, str]]) -> None:
    """Fail on a request that the project's role does not allow."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "access.yaml").read_text())
    (role,) = [document for document in documents if document["kind"] == "Role"]
    allowed = {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert set(asked) - allowed == set()
