"""The pipeline under DataTrove's own executors: several tasks, one dataset a prompt."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dill
import pyarrow.parquet as pq
import pytest
from datatrove.executor.local import LocalPipelineExecutor

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.rephrase.dataset import Dataset, LedgerError, RecipeChanged
from finephrase_dagster.rephrase.engine import Endpoint
from finephrase_dagster.rephrase.folder import LocalFolder
from finephrase_dagster.rephrase.reader import InputReader
from finephrase_dagster.rephrase.render import ByteRenderer
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.step import RephraseStep, Request
from finephrase_dagster.rephrase.survey import Survey, survey
from finephrase_dagster.rephrase.tasks import gather
from rephrase_parts import PROMPTS, LocalServer, completion, documents, failure, local_server, shorten_pauses


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        yield one


@pytest.fixture
def surveyed(tmp_path: Path) -> Survey:
    files = []
    for number in range(3):
        path = tmp_path / f"{number}.jsonl"
        rows = [{"id": name, "text": text} for name, text in documents(20, start=20 * number)]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": f"none-{number}"}]))
        files.append(str(path))
    return survey(files)


def datasets(root: Path, surveyed: Survey) -> dict[str, Dataset]:
    return {
        name: Dataset(folder=LocalFolder(root / name), recipe={"prompt": name, "rows": surveyed.digest})
        for name in PROMPTS
    }


def remotes(url: str) -> list[Endpoint]:
    return [Endpoint(url=url, model="tiny")]


def pipeline(wanted: dict[str, Dataset], surveyed: Survey, url: str) -> list[Any]:
    step = RephraseStep(
        datasets=wanted,
        renderer=functools.partial(ByteRenderer, prompts=PROMPTS, context=4096, max_tokens=64),
        request=Request.of("tiny", 64, {"seed": 0}),
        engines=functools.partial(remotes, url),
        settings=ExecutionSettings(concurrency=4, chunk_rows=8),
        survey=surveyed,
    )
    return [InputReader(surveyed.files), step]


def execute(steps: list[Any], logs: Path, workers: int) -> None:
    LocalPipelineExecutor(steps, tasks=3, workers=workers, logging_dir=str(logs), skip_completed=False).run()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_three_tasks_make_one_dataset_a_prompt(
    tmp_path: Path, server: LocalServer, surveyed: Survey, workers: int
) -> None:
    wanted = datasets(tmp_path / "out", surveyed)
    # As the Slurm executor hands them on.
    steps = dill.loads(dill.dumps(pipeline(wanted, surveyed, server.url)))  # noqa: S301
    execute(steps, tmp_path / "logs", workers)
    manifests = gather(wanted, survey=surveyed, tasks=3)
    assert len(server.requests) == 120
    for name in wanted:
        manifest, folder = manifests[name], tmp_path / "out" / name
        assert [manifest[key] for key in ("rows_in", "completed", "skipped", "failed")] == [63, 60, 3, 0]
        assert manifest == json.loads((folder / "__meta__" / "manifest.json").read_text())
        rows = [row for file in manifest["files"] for row in pq.read_table(folder / file["path"]).to_pylist()]
        assert sorted(row["id"] for row in rows) == sorted(f"doc-{number}" for number in range(60))
        assert all(sha256_file(folder / file["path"]) == file["sha256"] for file in manifest["files"])
        assert pq.read_table(folder / "__meta__" / "rejected.parquet").num_rows == 3
    assert gather(wanted, survey=surveyed, tasks=3) == manifests


@pytest.mark.slow
def test_a_task_that_failed_goes_on_and_nothing_is_gathered_before(
    tmp_path: Path, server: LocalServer, surveyed: Survey
) -> None:
    wanted = datasets(tmp_path / "out", surveyed)
    server.answer = lambda request: completion() if len(server.requests) <= 70 else failure(401, "expired")
    with pytest.raises(Exception, match="expired"):
        execute(pipeline(wanted, surveyed, server.url), tmp_path / "logs", 1)
    with pytest.raises(LedgerError, match="this task is not done"):
        gather(wanted, survey=surveyed, tasks=3)
    asked = len(server.requests)
    server.answer = lambda request: completion()
    execute(pipeline(wanted, surveyed, server.url), tmp_path / "logs", 1)
    assert len(server.requests) - asked == 120 - 70
    assert gather(wanted, survey=surveyed, tasks=3)["plain"]["completed"] == 60


def test_another_number_of_tasks_is_refused(tmp_path: Path, server: LocalServer, surveyed: Survey) -> None:
    wanted = datasets(tmp_path / "out", surveyed)
    execute(pipeline(wanted, surveyed, server.url), tmp_path / "logs", 1)
    with pytest.raises(RecipeChanged, match="tasks: 3 -> 2"):
        gather(wanted, survey=surveyed, tasks=2)
