"""Several workers write one dataset: as processes, as DataTrove's tasks, in an object store, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import dill
import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from finephrase_dagster.artifacts.claim import META, FolderBusy
from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.artifacts.lease import Timing
from finephrase_dagster.artifacts.leases import LEASES, SHARDS, Leases
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.commands.main import app
from finephrase_dagster.production import worker as worker_module
from finephrase_dagster.production.division import OrderChanged, lay_out, read_shards
from finephrase_dagster.production.shard_ledger import ShardLedger
from finephrase_dagster.production.worker import work, worker_step
from finephrase_dagster.production.workers import WorkersFailed, execute_with_workers
from finephrase_dagster.rephrase.dataset import NothingCompleted
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute, prepare
from finephrase_dagster.rephrase.outcome import Completed
from finephrase_dagster.study.component import Cell
from object_store import ObjectStore, object_store
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
from resources.rephraser import Rephraser

FILES, ROWS = 3, 40
ALL = FILES * ROWS


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)
    monkeypatch.setattr(worker_module, "TIMING", Timing(beat=0.2, expiry=20.0))


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        yield one


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    paths = []
    for number in range(FILES):
        path = tmp_path / f"{number}.jsonl"
        rows = [{"id": name, "text": text} for name, text in documents(ROWS - 1, start=100 * number)]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": f"none-{number}"}]))
        paths.append(str(path))
    return tuple(paths)


def job_of(root: Path | str, files: tuple[str, ...], url: str, **changes: Any) -> RephraseJob:
    spec = generator(context=4096, max_tokens=64)
    recipes = {name: {**recipe(name, spec), "rows": None} for name in PROMPTS}
    fields = {
        "files": files,
        "prompts": PROMPTS,
        "targets": {name: Target(folder=f"{root}/{name}", recipe=recipes[name]) for name in PROMPTS},
        "model": "tiny",
        "endpoints": (url,),
        "concurrency": 8,
        "chunk_rows": 15,
    }
    return RephraseJob(**{**fields, **changes})


class Answers:
    """Answers a number of requests, or all, and refuses the others; counts the completions by their prompts."""

    def __init__(self, server: LocalServer) -> None:
        self.counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.most = sys.maxsize
        server.answer = self._answer

    @property
    def repeated(self) -> int:
        return self.counts.total() - len(self.counts)

    def _answer(self, request: dict[str, Any]) -> Any:
        with self._counting:
            if self.counts.total() >= self.most:
                return failure(401, "expired")
            self.counts[request["messages"][-1]["content"]] += 1
            return completion()


@pytest.fixture
def answers(server: LocalServer) -> Answers:
    return Answers(server)


def check_datasets(root: Path, manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Every row is in each dataset once, and nothing but the dataset is left."""
    for name, manifest in manifests.items():
        folder = root / name
        assert [manifest[key] for key in ("rows_in", "completed", "skipped", "failed")] == [ALL, ALL - FILES, FILES, 0]
        rows = [row for file in manifest["files"] for row in pq.read_table(folder / file["path"]).to_pylist()]
        wanted = [f"doc-{100 * file + row}" for file in range(FILES) for row in range(ROWS - 1)]
        assert sorted(row["id"] for row in rows) == sorted(wanted)
        if all("-r000" in file["path"] for file in manifest["files"]):  # one division wrote all
            assert [row["id"] for row in rows] == wanted
        assert all(sha256_file(folder / file["path"]) == file["sha256"] for file in manifest["files"])
        assert {path.name for path in folder.glob("*.parquet")} == {file["path"] for file in manifest["files"]}
        assert not list((folder / LEASES).glob("*"))
        assert not list((folder / META / "journals").glob("*"))


def in_threads(count: int, target: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            target()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.slow
def test_three_workers_send_every_row_once_and_the_datasets_are_completed_afterwards(
    tmp_path: Path, server: LocalServer, answers: Answers, files: tuple[str, ...]
) -> None:
    job = job_of(tmp_path / "out", files, server.url)
    in_threads(3, lambda: work(job, lambda line: None))
    assert not list((tmp_path / "out").rglob("manifest.json"))
    manifests = execute(job)
    check_datasets(tmp_path / "out", manifests)
    assert (len(answers.counts), answers.repeated) == (2 * (ALL - FILES), 0)
    run = manifests["plain"]["run"]
    assert (run["workers"], run["requests"]) == (3, 2 * (ALL - FILES))
    parts = manifests["plain"]["goodput"]["parts"]
    assert sum(parts.values()) == pytest.approx(manifests["plain"]["goodput"]["engine_seconds"])


@pytest.mark.slow
def test_the_prompts_of_a_document_follow_one_another_at_each_worker(
    tmp_path: Path, server: LocalServer, files: tuple[str, ...]
) -> None:
    work(job_of(tmp_path / "out", files, server.url, concurrency=1), lambda line: None)
    documents_asked = [
        request["messages"][-1]["content"].split("Document ")[1].split(".")[0] for request in server.requests
    ]
    assert documents_asked[0::2] == documents_asked[1::2]


def stop_at(answers: Answers, completions: int, run: Callable[[], object]) -> None:
    answers.most = completions
    with pytest.raises(Exception, match="expired"):
        run()
    answers.most = sys.maxsize


@pytest.mark.slow
def test_a_worker_that_ends_gives_its_rows_back_and_another_one_repeats_none(
    tmp_path: Path, server: LocalServer, answers: Answers, files: tuple[str, ...]
) -> None:
    job = job_of(tmp_path / "out", files, server.url)
    stop_at(answers, 50, lambda: work(job, lambda line: None))
    work(job, lambda line: None)
    assert answers.repeated <= 8  # what was in flight
    check_datasets(tmp_path / "out", execute(job))


@pytest.mark.slow
def test_workers_continue_what_a_single_writer_began_and_the_other_way_round(
    tmp_path: Path, server: LocalServer, answers: Answers, files: tuple[str, ...]
) -> None:
    job = job_of(tmp_path / "out", files, server.url)
    stop_at(answers, 60, lambda: execute(job))
    stop_at(answers, 120, lambda: work(job, lambda line: None))
    stop_at(answers, 180, lambda: execute(job))
    in_threads(2, lambda: work(job, lambda line: None))
    check_datasets(tmp_path / "out", execute(job))
    assert len(answers.counts) == 2 * (ALL - FILES)
    assert answers.repeated <= 3 * 8


@pytest.mark.slow
def test_rows_that_are_divided_again_lose_nothing_of_a_shard_that_was_left_unfinished(
    tmp_path: Path, server: LocalServer, answers: Answers, files: tuple[str, ...]
) -> None:
    job = job_of(tmp_path / "out", files, server.url, chunk_rows=50)
    job = job.model_copy(update={name: {"plain": getattr(job, name)["plain"]} for name in ("prompts", "targets")})
    _, survey, datasets = prepare(job, lambda line: None)
    folder = datasets["plain"].folder
    lay_out(datasets["plain"], survey, prompt="plain", rows=50)
    leases = Leases(folder, (read_shards(folder, survey.layout) or [])[:1])
    ledger = ShardLedger(folder, "plain", leases, keep_raw=False, has_rollouts=False, layout=survey.layout)
    lease = leases.take(ahead=ROWS)
    assert lease is not None
    ledger.begin(lease)
    ledger.read(lease)
    for row in range(3, 7):  # a shard whose first rows are not done
        completed = Completed(
            id=f"doc-{row}",
            text="Paid.",
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=1,
            document_cut=False,
            document_sha256="",
        )
        ledger.record(ledger.assign(0), row, completed)
    ledger.give_back()
    stop_at(answers, 0, lambda: execute(job))  # makes a file of these rows, and no other
    work(job, lambda line: None)
    sent = answers.counts.total()
    execute(job)
    assert answers.counts.total() == sent, "the workers finished every row"
    assert sent - answers.repeated == ALL - FILES - 4
    table = pq.read_table(tmp_path / "out" / "plain").to_pydict()
    assert sorted(table["id"]) == sorted(f"doc-{100 * file + row}" for file in range(FILES) for row in range(ROWS - 1))
    assert table["text"].count("Paid.") == 4


@pytest.mark.slow
def test_failed_rows_are_sent_again_by_workers(tmp_path: Path, server: LocalServer, files: tuple[str, ...]) -> None:
    job = job_of(tmp_path / "out", files, server.url)
    server.answer = lambda request: (
        failure(400, "no") if "Document 7." in request["messages"][-1]["content"] else completion()
    )
    assert {manifest["failed"] for manifest in execute(job).values()} == {1}
    server.answer = lambda request: completion()
    before = len(server.requests)
    manifests = execute_with_workers(job.model_copy(update={"retry_failed": True}), 1)
    assert len(server.requests) - before == 2
    assert {manifest["failed"] for manifest in manifests.values()} == {0}


@pytest.mark.slow
def test_workers_that_complete_nothing_leave_every_row_to_be_tried_again(
    tmp_path: Path, server: LocalServer, files: tuple[str, ...]
) -> None:
    job = job_of(tmp_path / "out", files, server.url)
    server.answer = lambda request: failure(400, "no such field")
    work(job, lambda line: None)
    with pytest.raises(NothingCompleted, match=r"reason is: HTTP 400: no such field\. Remove the cause, then run"):
        execute(job)
    server.answer = lambda request: completion()
    work(job, lambda line: None)
    check_datasets(tmp_path / "out", execute(job))


@pytest.mark.slow
def test_input_in_another_order_is_refused(tmp_path: Path, server: LocalServer, files: tuple[str, ...]) -> None:
    job = job_of(tmp_path / "out", files, server.url)
    server.answer = lambda request: completion() if len(server.requests) <= 50 else failure(401, "expired")
    with pytest.raises(Exception, match="expired"):
        execute(job)
    lines = Path(files[0]).read_text().splitlines(keepends=True)
    Path(files[0]).write_text("".join(reversed(lines)))
    with pytest.raises(OrderChanged, match="has changed since the first rows were finished"):
        work(job, lambda line: None)
    server.answer = lambda request: completion()
    assert {manifest["completed"] for manifest in execute(job).values()} == {ALL - FILES}


@pytest.mark.slow
def test_a_single_writer_is_refused_while_a_worker_works(
    tmp_path: Path, server: LocalServer, files: tuple[str, ...]
) -> None:
    job, refused = job_of(tmp_path / "out", files, server.url), []

    def answer(request: dict[str, Any]) -> Any:
        if not refused:
            with pytest.raises(FolderBusy) as error:
                execute(job)
            refused.append(error)
        return completion()

    server.answer = answer
    work(job.model_copy(update={"concurrency": 1}), lambda line: None)
    assert refused
    check_datasets(tmp_path / "out", execute(job))


@pytest.mark.slow
def test_a_killed_worker_costs_what_it_had_in_flight_and_a_new_one_takes_part(
    tmp_path: Path, server: LocalServer, answers: Answers, files: tuple[str, ...]
) -> None:
    job, answer = job_of(tmp_path / "out", files, server.url, concurrency=4), server.answer
    server.answer = lambda request: time.sleep(0.05) or answer(request)  # type: ignore[func-returns-value]
    command = [sys.executable, "-m", "finephrase_dagster.production.worker"]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin is not None
        process.stdin.write(job.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        return process

    first, second = start(), start()
    wait_until(lambda: len(server.requests) > 80)
    first.kill()
    third = start()
    assert second.wait(60) == 0
    assert third.wait(60) == 0
    first.wait()
    for process in (first, second, third):
        assert process.stdin is not None
        process.stdin.close()
    check_datasets(tmp_path / "out", execute(job))
    assert answers.repeated <= 4


@pytest.mark.slow
def test_the_command_with_workers_reports_as_without_and_ends_them_when_it_is_interrupted(
    tmp_path: Path, server: LocalServer, files: tuple[str, ...]
) -> None:
    options = ["--input", *files, "--prompt", "faq", "--output", str(tmp_path / "out"), "--endpoint", server.url]
    options += ["--model", "tiny", "--max-tokens", "64", "--context", "4096", "--concurrency", "8", "--chunk-rows", "8"]
    server.answer = lambda request: time.sleep(0.1) or completion()  # type: ignore[func-returns-value]
    command = [sys.executable, "-m", "finephrase_dagster.commands.main", "rephrase", *options, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(server.requests) > 30)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1, text
    assert "Traceback" not in text
    assert "Run the same command again to resume" in text
    assert not any(one.is_running() for one in workers)
    before = len(server.requests)
    server.answer = lambda request: completion()
    result = CliRunner().invoke(app, ["rephrase", *options, "--workers", "2", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)["datasets"]["faq"]
    assert (report["completed"], report["skipped"], report["run"]["workers"]) == (ALL - FILES, FILES, 4)
    assert len(server.requests) <= ALL - FILES + 8
    assert before < len(server.requests)
    assert "title: datasets" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_when_all_workers_end_the_error_has_the_last_lines_of_one(
    tmp_path: Path, server: LocalServer, files: tuple[str, ...]
) -> None:
    server.answer = lambda request: failure(401, "expired")
    with pytest.raises(WorkersFailed, match=r"(?s)worker \d ended with status \d+ before all rows.*expired"):
        execute_with_workers(job_of(tmp_path / "out", files, server.url), 2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_datatrove_executes_workers_as_tasks(
    tmp_path: Path, server: LocalServer, answers: Answers, files: tuple[str, ...], workers: int
) -> None:
    job = job_of(tmp_path / "out", files, server.url)
    (tmp_path / "step").write_bytes(dill.dumps(worker_step(job)))  # as the Slurm executor hands it on
    # A process of its own: the executor forks its manager, and this process has threads, whose locks the fork may hold.
    program = (
        "import sys, dill; from datatrove.executor.local import LocalPipelineExecutor; step = open(sys.argv[1], 'rb'); "
        f"LocalPipelineExecutor([dill.load(step)], 3, {workers}, sys.argv[2], skip_completed=False).run()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "step"), str(tmp_path / "logs")]
    subprocess.run(command, check=True, timeout=300)
    assert answers.repeated == 0
    check_datasets(tmp_path / "out", execute(job))


@pytest.mark.slow
def test_the_rephraser_of_a_cell_runs_as_many_workers_as_it_is_told(
    tmp_path: Path, server: LocalServer, answers: Answers, files: tuple[str, ...]
) -> None:
    class OfATest(Rephraser):
        def _job(self, lineage: Any, cell: Any, datasets: Any) -> RephraseJob:
            return job_of(tmp_path / "out", files, server.url)

    lines: list[str] = []
    manifests = OfATest(workers=2).rephrase(cast(Lineage, None), cast(Cell, None), {}, log=lines.append)
    check_datasets(tmp_path / "out", manifests)
    assert answers.repeated == 0
    assert manifests["plain"]["run"]["workers"] == 2
    assert any(line.startswith("plain: 117 completed") for line in lines)


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.mark.slow
def test_workers_share_a_dataset_in_an_object_store_and_one_that_dies_there_is_replaced(
    store: ObjectStore, server: LocalServer, answers: Answers, files: tuple[str, ...]
) -> None:
    job = job_of(f"{store.bucket}/out", files, server.url)
    stop_at(answers, 50, lambda: work(job, lambda line: None))
    in_threads(2, lambda: work(job, lambda line: None))
    manifests = execute(job)
    assert {manifest["completed"] for manifest in manifests.values()} == {ALL - FILES}
    assert answers.repeated <= 8
    left = store.files.find(f"{store.bucket}/out/plain")
    names = [path.rpartition("/")[2] for path in left if META not in path]
    assert sorted(names) == [file["path"] for file in manifests["plain"]["files"]]
    assert not [path for path in left if "/leases/" in path or "/journals/" in path or path.endswith(SHARDS)]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s; load {os.getloadavg()}"
        time.sleep(0.02)
