"""Fixtures shared by all tests: an installation of its own in a temporary folder, and no network."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", DAGSTER_DISABLE_TELEMETRY="1")
for name in ("FINEPHRASE_STUDY", "FINEPHRASE_DATA", "MLFLOW_TRACKING_URI", "DAGSTER_HOME"):
    os.environ.pop(name, None)
# Devices are leased by the tests among themselves; other work on this machine does not hold them up.
os.environ["FINEPHRASE_DEVICE_LOCKS"] = tempfile.mkdtemp(prefix="finephrase-devices-")

# How long an example takes says more of the machine than of the code.
settings.register_profile("project", deadline=None, max_examples=60)
settings.load_profile("project")

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.study.file import read_study
from finephrase_dagster.study.paths import REPOSITORY, Paths
from installation import Installation, install


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: two processes end together only if what is left last is short."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """The demo study with an empty data folder."""
    return Paths(data=tmp_path / "data", study=REPOSITORY / "studies" / "demo.yaml")


@pytest.fixture
def lineage(paths: Paths) -> Lineage:
    return Lineage(study=read_study(paths.study, catalogue()), paths=paths)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Installation:
    """A small study, materialised once for all tests, whichever process runs them; none may change it."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "finished"
    complete = root / "complete"
    with FileLock(f"{root}.lock"):
        if not complete.exists():
            shutil.rmtree(root, ignore_errors=True)
            outcome, _ = install(root).materialize()
            assert outcome.complete, outcome.failed
            complete.touch()
    return Installation(root)


@pytest.fixture
def own(finished: Installation, tmp_path: Path) -> Installation:
    """A copy of the finished study that a test may change."""
    return finished.copy(tmp_path / "installation")
