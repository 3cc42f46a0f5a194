"""The pipeline under DataTrove's own executors: several tasks, one dataset per prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dill
import pyarrow.parquet as pq
import pytest
from datatrove.executor.local import LocalPipelineExecutor

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.rephrase.dataset import LedgerError, NothingCompleted, RecipeChanged
from finephrase_dagster.rephrase.job import RephraseJob, Target
from finephrase_dagster.rephrase.reader import InputReader
from finephrase_dagster.rephrase.survey import Survey, survey_input
from finephrase_dagster.rephrase.tasks import merge_tasks
from rephrase_parts import (
    PROMPTS,
    LocalServer,
    completion,
    documents,
    failure,
    generator,
    local_server,
    recipe,
    shorten_pauses,
)


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
    return survey_input(files)


def job_of(root: Path, files: tuple[str, ...], url: str) -> RephraseJob:
    spec = generator(context=4096, max_tokens=64)
    recipes = {name: {**recipe(name, spec), "rows": None} for name in PROMPTS}
    return RephraseJob(
        files=files,
        prompts=PROMPTS,
        targets={name: Target(folder=str(root / name), recipe=recipes[name]) for name in PROMPTS},
        model="tiny",
        endpoints=(url,),
        concurrency=4,
        chunk_rows=8,
    )


def pipeline(job: RephraseJob, surveyed: Survey) -> list[Any]:
    return [InputReader(surveyed.files), job.step(surveyed)]


def execute(steps: list[Any], logs: Path, workers: int) -> None:
    LocalPipelineExecutor(steps, tasks=3, workers=workers, logging_dir=str(logs), skip_completed=False).run()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_three_tasks_write_one_dataset_per_prompt(
    tmp_path: Path, server: LocalServer, surveyed: Survey, workers: int
) -> None:
    job = job_of(tmp_path / "out", surveyed.files, server.url)
    wanted = job.datasets(surveyed.digest)
    # As the Slurm executor hands them on.
    steps = dill.loads(dill.dumps(pipeline(job, surveyed)))  # noqa: S301
    execute(steps, tmp_path / "logs", workers)
    manifests = merge_tasks(wanted, survey=surveyed, tasks=3)
    assert len(server.requests) == 120
    for name in wanted:
        manifest, folder = manifests[name], tmp_path / "out" / name
        assert [manifest[key] for key in ("rows_in", "completed", "skipped", "failed")] == [63, 60, 3, 0]
        assert manifest == json.loads((folder / "__meta__" / "manifest.json").read_text())
        rows = [row for file in manifest["files"] for row in pq.read_table(folder / file["path"]).to_pylist()]
        assert sorted(row["id"] for row in rows) == sorted(f"doc-{number}" for number in range(60))
        assert all(sha256_file(folder / file["path"]) == file["sha256"] for file in manifest["files"])
        assert pq.read_table(folder / "__meta__" / "rejected.parquet").num_rows == 3
    assert merge_tasks(wanted, survey=surveyed, tasks=3) == manifests


@pytest.mark.slow
def test_a_failed_task_resumes_and_nothing_is_merged_before(
    tmp_path: Path, server: LocalServer, surveyed: Survey
) -> None:
    job = job_of(tmp_path / "out", surveyed.files, server.url)
    wanted = job.datasets(surveyed.digest)
    server.answer = lambda request: completion() if len(server.requests) <= 70 else failure(401, "expired")
    with pytest.raises(Exception, match="expired"):
        execute(pipeline(job, surveyed), tmp_path / "logs", 1)
    with pytest.raises(LedgerError, match="this task is not finished"):
        merge_tasks(wanted, survey=surveyed, tasks=3)
    asked = len(server.requests)
    server.answer = lambda request: completion()
    execute(pipeline(job, surveyed), tmp_path / "logs", 1)
    assert len(server.requests) - asked == 120 - 70
    assert merge_tasks(wanted, survey=surveyed, tasks=3)["plain"]["completed"] == 60


def test_tasks_that_completed_nothing_are_not_merged_and_try_every_row_again(
    tmp_path: Path, server: LocalServer, surveyed: Survey
) -> None:
    job = job_of(tmp_path / "out", surveyed.files, server.url)
    wanted = job.datasets(surveyed.digest)
    server.answer = lambda request: failure(400, "no such field")
    execute(pipeline(job, surveyed), tmp_path / "logs", 1)
    with pytest.raises(NothingCompleted, match=r"reason is: HTTP 400: no such field\. Remove the cause, then run"):
        merge_tasks(wanted, survey=surveyed, tasks=3)
    assert not any(dataset.manifest() for dataset in wanted.values())
    server.answer = lambda request: completion()
    execute(pipeline(job, surveyed), tmp_path / "logs", 1)
    assert merge_tasks(wanted, survey=surveyed, tasks=3)["plain"]["completed"] == 60


def test_another_number_of_tasks_is_refused(tmp_path: Path, server: LocalServer, surveyed: Survey) -> None:
    job = job_of(tmp_path / "out", surveyed.files, server.url)
    wanted = job.datasets(surveyed.digest)
    execute(pipeline(job, surveyed), tmp_path / "logs", 1)
    with pytest.raises(RecipeChanged, match="tasks: 3 -> 2"):
        merge_tasks(wanted, survey=surveyed, tasks=2)
