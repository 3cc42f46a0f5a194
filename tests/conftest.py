"""Fixtures shared by all tests: an installation of its own in a temporary folder, and no network."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # several test processes share the cores
os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", DAGSTER_DISABLE_TELEMETRY="1")
# Without cached bytecode, each process that the tests start compiles hundreds of modules; pytest rewrites every test.
sys.dont_write_bytecode = False
for name in ("PYTHONDONTWRITEBYTECODE", "FINEPHRASE_STUDY", "FINEPHRASE_DATA", "MLFLOW_TRACKING_URI", "DAGSTER_HOME"):
    os.environ.pop(name, None)
# The tests lease devices in a folder of their own, so that other work on this machine does not delay them.
os.environ["FINEPHRASE_DEVICE_LOCKS"] = tempfile.mkdtemp(prefix="finephrase-devices-")

# The time that an example takes depends on the machine more than on the code.
settings.register_profile("project", deadline=None, max_examples=60)
settings.load_profile("project")

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.study.file import read_study
from finephrase_dagster.study.paths import REPOSITORY, Paths
from installation import Installation, install

DURATIONS = Path(__file__).with_name("durations.json")
"""Seconds of each test file, as FINEPHRASE_RECORD_DURATIONS=1 writes them at the end of a run of all tests."""

SLOW_TEST_SECONDS = 10  # a guess, for files whose duration is not recorded


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes after their parameter: packed bytes may hold the time, and all processes must agree on names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first: two processes end at the same time only if what is left last is short."""
    recorded: dict[str, float] = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    guessed: Counter[str] = Counter()
    for item in items:
        guessed[item.path.name] += SLOW_TEST_SECONDS if item.get_closest_marker("slow") else 0
    items.sort(key=lambda item: -recorded.get(item.path.name, guessed[item.path.name]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the duration of every file, where that is wanted."""
    if not os.environ.get("FINEPHRASE_RECORD_DURATIONS"):
        return
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[Path(report.nodeid.split("::")[0]).name] += report.duration
    recorded = {name: round(total) for name, total in seconds.most_common() if total >= 1}
    DURATIONS.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def forget_the_study() -> Iterator[None]:
    """Forget the study that a command in this process put into its environment, for child processes."""
    yield
    os.environ.pop("FINEPHRASE_STUDY", None)


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
