"""Uploading a release: few commits, whatever the hub does, and nothing twice. The hub is a stand-in on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.release.publish import publish
from finephrase_dagster.study.paths import REPOSITORY
from release_parts import Hub, finished_study, running_hub

TOKEN = "hf_a_secret_of_this_test"
PUSH = """
import json, os, signal, sys
from pathlib import Path
from finephrase_dagster.release import push
push.COMMIT_FILES, push.FIRST_WAIT, push.ATTEMPTS = int(sys.argv[2]), 0.05, int(sys.argv[3])
from huggingface_hub.utils import _http
_http.time.sleep = lambda seconds: None
def log(line):
    print(line, flush=True)
    if "committed" in line and os.environ.get("KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
manifest = json.loads((folder / "__meta__/manifest.json").read_text())
try:
    print("commits", push.push_release(folder, manifest, "me/data", log))
except push.FinephraseError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_status)
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("released")
    publish(read_lineage(finished_study(root / "study")), root / "out")
    return root / "out"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as one:
        yield one


def pushed(folder: Path, hub: Hub, *, files: int = 2, attempts: int = 8, **more: str) -> tuple[int, str]:
    variables = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", **more}
    variables |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", PUSH, str(folder), str(files), str(attempts)]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert TOKEN not in ended.stdout + ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def local_files(folder: Path) -> dict[str, bytes]:
    """Return what a repository must hold."""
    kept = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "verified.json"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.mark.slow
def test_a_release_is_uploaded_in_few_commits_and_the_card_comes_last(released: Path, hub: Hub) -> None:
    status, output = pushed(released, hub, files=100)
    assert (status, hub.files) == (0, local_files(released)), output
    assert len(hub.commits) == 2
    assert hub.commits[-1] == ["README.md", "__meta__/manifest.json"]
    assert hub.tokens - {""} == {f"Bearer {TOKEN}"}
    uploads = len(hub.uploads)
    status, output = pushed(released, hub, files=100)
    assert "commits 0" in output
    assert (len(hub.commits), len(hub.uploads)) == (2, uploads)


FAULTS: list[tuple[str, int | str]] = [
    ("/preupload/", 429),
    ("/commit/", 500),
    ("/commit/", "lose"),
    ("/tree/", "drop"),
    ("/objects/batch", 500),
    ("/repos/create", "drop"),
]


@pytest.mark.slow
def test_a_hub_that_fails_in_every_way_still_gets_each_file_once(released: Path, hub: Hub) -> None:
    hub.faults = list(FAULTS)
    status, output = pushed(released, hub)
    assert (status, hub.faults, hub.files) == (0, [], local_files(released)), output
    committed = [path for paths in hub.commits for path in paths]
    assert sorted(committed) == sorted(hub.files)
    assert len(hub.uploads) == len(set(hub.uploads))


@pytest.mark.slow
def test_an_upload_that_is_killed_between_commits_resumes_where_it_was(released: Path, hub: Hub) -> None:
    status, _ = pushed(released, hub, KILL="1")
    assert status == -signal.SIGKILL
    assert len(hub.commits) == 1
    assert "README.md" not in hub.files
    status, output = pushed(released, hub)
    assert (status, hub.files) == (0, local_files(released)), output
    committed = [path for paths in hub.commits for path in paths]
    assert sorted(committed) == sorted(hub.files)


@pytest.mark.slow
def test_data_files_of_an_earlier_release_are_deleted_and_other_files_stay(released: Path, hub: Hub) -> None:
    hub.files = {"faq/part-00009.parquet": b"old", "LICENSE": b"text"}
    status, output = pushed(released, hub)
    assert (status, hub.files) == (0, {**local_files(released), "LICENSE": b"text"}), output


@pytest.mark.slow
def test_a_hub_that_refuses_or_never_answers_ends_the_upload_with_the_next_action(released: Path, hub: Hub) -> None:
    hub.faults = [("/tree/", 403)]
    status, output = pushed(released, hub)
    assert (status, "PushUnclear the hub refuses the upload (HTTP 403)" in output) == (2, True), output
    hub.faults = [("/tree/", 500)] * 20
    status, output = pushed(released, hub, attempts=2)
    assert (status, "Run the same command again to resume." in output) == (1, True), output
    status, output = pushed(released, hub, HF_TOKEN="")
    assert (status, "environment variable HF_TOKEN" in output) == (2, True), output
