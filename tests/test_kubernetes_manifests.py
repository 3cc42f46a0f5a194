"""`deploy/`: manifests that several versions of Kubernetes accept, and images that can be built."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from finephrase_dagster.orchestration.pod_launcher import PodRunLauncher
from finephrase_dagster.study.paths import REPOSITORY
from kubernetes_api import KubernetesApi
from kubernetes_parts import DEPLOY, check_manifests, write_instance

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
IMAGES = sorted((DEPLOY / "images").glob("*.Dockerfile"))
SETTINGS = ("cluster.yaml", "dagster.yaml", "kustomization.yaml")  # these are not manifests


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def values() -> dict[str, Any]:
    return documents(DEPLOY / "helm" / "values.yaml")[0]


@pytest.mark.parametrize("path", [path for path in MANIFESTS if path.name not in SETTINGS], ids=lambda path: path.stem)
def test_manifests_are_valid_for_several_versions_of_kubernetes(path: Path) -> None:
    check_manifests(documents(path))


def test_an_invalid_manifest_is_refused() -> None:
    (deployment, *_) = documents(DEPLOY / "kubernetes" / "mlflow.yaml")
    deployment["spec"]["replica"] = 2
    with pytest.raises(AssertionError, match=r"Deployment, Kubernetes 1\.25: spec: .*'replica' was unexpected"):
        check_manifests([deployment])


def test_kustomize_lists_every_manifest() -> None:
    kustomization = documents(DEPLOY / "kubernetes" / "kustomization.yaml")[0]
    assert set(kustomization["resources"]) == {path.name for path in MANIFESTS} - set(SETTINGS)
    (generated,) = kustomization["configMapGenerator"]
    assert all((DEPLOY / "kubernetes" / file).is_file() for file in generated["files"])


def test_manifests_name_secrets_but_contain_none() -> None:
    for path in [*MANIFESTS, DEPLOY / "helm" / "values.yaml", *IMAGES]:
        assert not re.search(
            r"(?i)^\s*\w*(password|api_?token|hf_token|api_?key)\s*[:=]\s*[^\s{]", path.read_text(), re.M
        ), path
    kinds = {document["kind"] for path in MANIFESTS if path.name not in SETTINGS for document in documents(path)}
    assert "Secret" not in kinds


def test_every_named_object_is_created_by_a_manifest() -> None:
    made = {
        (document["kind"], document["metadata"]["name"])
        for path in MANIFESTS
        if path.name not in SETTINGS
        for document in documents(path)
    }
    cluster = documents(DEPLOY / "kubernetes" / "cluster.yaml")[0]
    assert ("Namespace", cluster["namespace"]) in made
    assert ("ServiceAccount", cluster["service_account"]) in made
    assert {("PersistentVolumeClaim", volume["claim"]) for volume in cluster["volumes"]} <= made
    assert {("ConfigMap", name) for name in cluster["environment"]["config_maps"]} <= made
    classes = {pool["priority_class"] for pool in cluster["node_pools"] if "priority_class" in pool}
    assert {("PriorityClass", name) for name in classes} <= made


def test_dagster_loads_the_settings_of_the_instance(tmp_path: Path) -> None:
    with KubernetesApi(tmp_path, node={}, images={}) as api:
        home = write_instance(tmp_path / "home", api.kubeconfig)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            launcher = instance.run_launcher
            assert isinstance(launcher, PodRunLauncher)
            assert launcher.service_account_name == "finephrase-worker"
            assert instance.run_monitoring_max_resume_run_attempts == 3
            assert instance.run_monitoring_start_timeout_seconds == 900


def test_the_charts_values_equal_the_settings_of_the_instance() -> None:
    settings, chart = documents(DEPLOY / "kubernetes" / "dagster.yaml")[0], values()
    assert chart["runLauncher"]["config"]["customRunLauncher"] == settings["run_launcher"]
    assert chart["additionalInstanceConfig"]["concurrency"] == settings["concurrency"]
    monitoring = {
        re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name): value
        for name, value in chart["dagsterDaemon"]["runMonitoring"].items()
    }
    assert monitoring == settings["run_monitoring"]
    (deployment,) = chart["dagster-user-deployments"]["deployments"]
    launcher = settings["run_launcher"]["config"]
    assert [one["name"] for one in deployment["envConfigMaps"]] == launcher["env_config_maps"]
    assert [one["name"] for one in deployment["envSecrets"]] == launcher["env_secrets"]
    assert launcher["volumes"][0] in deployment["volumes"]


def test_the_chart_runs_the_images_of_the_cluster_file() -> None:
    images = documents(DEPLOY / "kubernetes" / "cluster.yaml")[0]["images"]
    chart = values()
    (deployment,) = chart["dagster-user-deployments"]["deployments"]
    for part in (chart["dagsterWebserver"], chart["dagsterDaemon"], deployment):
        assert f"{part['image']['repository']}:{part['image']['tag']}" == images["control"]
    built = {f"finephrase/{path.stem}" for path in IMAGES}
    assert {image.partition(":")[0] for image in images.values()} <= built


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_an_image_copies_existing_files_onto_a_pinned_base_and_runs_without_root(path: Path) -> None:
    lines = re.sub(r"\\\n\s*", " ", path.read_text()).splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    bases += [found[1] for line in lines if (found := re.match(r"COPY --from=(\S+)", line))]
    assert bases
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base) for base in bases), bases
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert [source for sources in copied for source in sources if not (REPOSITORY / source).exists()] == []
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] == "1000"
    assert not [line for line in lines if re.match(r"(ARG|ENV)\b.*(TOKEN|SECRET|PASSWORD|KEY)", line)]


@pytest.mark.slow
def test_the_workers_image_has_every_package_that_its_code_imports() -> None:
    image = (DEPLOY / "images" / "worker.Dockerfile").read_text()
    (named,) = re.findall(r"for name in ([^;]+);", image)
    listed = {line.partition("==")[0] for line in (REPOSITORY / "requirements" / "gpu.txt").read_text().splitlines()}
    assert set(named.split()) <= listed
    with_vllm = {
        "vllm",
        "prometheus-client",
        "prometheus_client",
        "torch",
        "transformers",
        "huggingface-hub",
        "huggingface_hub",
        "tokenizers",
        "numpy",
        "jinja2",
        "packaging",
    }
    files = [REPOSITORY / "finephrase_dagster" / room / "worker.py" for room in ("rephrase", "production")]
    needed: set[str] = set()
    for file in files:  # grows during the loop: everything that the worker imports, also indirectly
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            needed |= {name.split(".")[0] for name in names}
            ours = [REPOSITORY / f"{name.replace('.', '/')}.py" for name in names if name.startswith("finephrase_")]
            files += [other for other in ours if other.is_file() and other not in files]
    needed -= {*sys.stdlib_module_names, "finephrase_dagster", "__future__"}
    distributions = packages_distributions()
    there = {*named.split(), *with_vllm}
    missing = {name for name in needed if not {of.lower() for of in distributions[name]} & there}
    assert missing == set()
