"""Completions of earlier datasets are reused where requests are the same, and only there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.earlier import EarlierDatasets
from finephrase_dagster.artifacts.fingerprint import fingerprint, plain
from finephrase_dagster.artifacts.key import DATASET, ItemKey
from finephrase_dagster.artifacts.leases import SHARDS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.plan.plan import plan
from finephrase_dagster.production import division
from finephrase_dagster.production.worker import work
from finephrase_dagster.production.workers import execute_with_workers
from finephrase_dagster.rephrase import takeover
from finephrase_dagster.rephrase.job import RephraseJob, Target, cell_job, execute, prepare
from finephrase_dagster.study.grid import CellGrid
from finephrase_dagster.study.paths import REPOSITORY, Paths
from rephrase_parts import (
    PROMPTS,
    LocalServer,
    completion,
    documents,
    failure,
    generator,
    local_server,
    recipe,
    rows_of,
    shorten_pauses,
)
from test_plan import FACTS, complete

Rows = list[tuple[str, str]]
EARLY, LATE = documents(30), documents(40)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    shorten_pauses(monkeypatch)
    with local_server() as one:
        one.answer = lambda request: completion(f"In other words: {request['messages'][-1]['content'][:40]}")
        yield one


class Trial:
    """Datasets of the prompt `plain` in one data folder, and what was sent for each."""

    def __init__(self, root: Path, server: LocalServer) -> None:
        self.root, self.server = root, server

    def artifact(self, rows: Rows, **changes: Any) -> Artifact:
        spec = generator(context=4096, max_tokens=64)
        fields = {**recipe("plain", spec), "rows": fingerprint(rows), **changes}
        return Artifact(
            key=ItemKey(kind=DATASET, generator="tiny", source="text", prompt="plain"),
            recipe=plain(fields),
            root=self.root,
        )

    def job(self, rows: Rows, **changes: Any) -> RephraseJob:
        artifact = self.artifact(rows, **changes)
        source = self.root / f"{artifact.fingerprint}.jsonl"
        self.root.mkdir(exist_ok=True)
        source.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in rows))
        earlier = tuple(EarlierDatasets(self.root).of(artifact))
        return RephraseJob(
            files=(str(source),),
            prompts={"plain": PROMPTS["plain"]},
            targets={"plain": Target(folder=str(artifact.folder), recipe=artifact.recipe, earlier=earlier)},
            model="tiny",
            endpoints=(self.server.url,),
            concurrency=4,
            chunk_rows=7,
        )

    def write(
        self,
        rows: Rows,
        write: Callable[[RephraseJob], Mapping[str, Mapping[str, Any]]] = execute,
        **changes: Any,
    ) -> tuple[Mapping[str, Any], int]:
        """Write a dataset; return its manifest and the number of requests that were sent for it."""
        before = len(self.server.requests)
        manifest = write(self.job(rows, **changes))["plain"]
        return manifest, len(self.server.requests) - before

    def rows(self, rows: Rows, **changes: Any) -> dict[str, dict[str, Any]]:
        written = rows_of(self.artifact(rows, **changes))
        assert len({row["id"] for row in written}) == len(written)
        return {row["id"]: row for row in written}


@pytest.fixture
def trial(tmp_path: Path, server: LocalServer) -> Trial:
    return Trial(tmp_path / "data", server)


def with_workers(job: RephraseJob) -> Mapping[str, Mapping[str, Any]]:
    return execute_with_workers(job, 1)


@pytest.mark.slow
@pytest.mark.parametrize("write", [execute, with_workers])
def test_only_new_and_changed_documents_are_sent_and_the_others_are_the_same_to_the_byte(
    trial: Trial, write: Callable[[RephraseJob], Mapping[str, Mapping[str, Any]]]
) -> None:
    first, sent = trial.write(EARLY)
    assert (sent, "reused" in first) == (30, False)
    moved = [*LATE[35:], *LATE[:35]]
    moved[7] = (moved[7][0], "Another document under an old id.")
    second, sent = trial.write(moved, write)
    assert (sent, second["rows_in"], second["completed"]) == (11, 40, 40)
    earlier, later = trial.rows(EARLY), trial.rows(moved)
    assert {id for id, row in later.items() if earlier.get(id) != row} == {moved[7][0], *(id for id, _ in LATE[30:])}
    assert second["reused"] == {
        "rows": 29,
        "prompt_tokens": 29 * 11,
        "completion_tokens": 29 * 3,
        "datasets": {first["fingerprint"]: 29},
    }


def test_what_is_reused_does_not_count_as_spent(trial: Trial) -> None:
    trial.write(EARLY)
    manifest, _ = trial.write(LATE)
    assert manifest["completion_tokens"] == 40 * 3
    assert manifest["run"]["completion_tokens"] == manifest["goodput"]["completion_tokens"] == 10 * 3
    assert manifest["run"]["requests"] == 10


def test_a_dataset_of_which_everything_can_be_reused_sends_and_spends_nothing(trial: Trial) -> None:
    trial.write(LATE)
    manifest, sent = trial.write(EARLY)
    assert (sent, manifest["completed"], manifest["reused"]["rows"]) == (0, 30, 30)
    assert (manifest["goodput"]["completion_tokens"], manifest["goodput"]["parts"]["kept"]) == (0, 0)


CHANGES: tuple[dict[str, Any], ...] = (
    {"prompt": {**recipe("plain")["prompt"], "template": "[[DOCUMENT]]\n\nSay it."}},
    {"prompt": {**recipe("plain")["prompt"], "name": "other"}},  # the seeds of requests depend on it
    {"sampling": {**recipe("plain")["sampling"], "temperature": 0.3}},
    {"sampling": {**recipe("plain")["sampling"], "seed": 8}},
    {"model": "another"},
    {"engine": {"quantization": "fp8"}},
    {"max_tokens": 63},
    {"context": 4000},
    {"truncation": "another way of cutting"},
    {"cleaning": "other rules"},
    {"grammar": 'root ::= "Yes."'},
    {"date": "2020-01-01"},
    {"keep_raw": True},
    {"rollouts": {"most": 2}},
    {"code": 0},
)


@pytest.mark.slow
def test_a_dataset_whose_requests_or_rows_differ_otherwise_is_no_earlier_dataset(trial: Trial) -> None:
    trial.write(EARLY)
    earlier = EarlierDatasets(trial.root)
    assert earlier.of(trial.artifact(LATE)) == {str(trial.artifact(EARLY).folder): 30}
    assert [change for change in CHANGES if earlier.of(trial.artifact(LATE, **change))] == []
    manifest, sent = trial.write(LATE, max_tokens=63)
    assert (sent, "reused" in manifest) == (40, False)


def test_cut_failed_and_skipped_rows_are_sent(trial: Trial) -> None:
    rows = [*EARLY, ("empty", "")]

    def answer(request: dict[str, Any]) -> Any:
        text = request["messages"][-1]["content"]
        if "Document 3." in text:
            return failure(400, "no")
        status, body = completion("Some words")
        body["choices"][0]["finish_reason"] = "length" if "Document 5." in text else "stop"  # type: ignore[index]
        return status, body

    trial.server.answer = answer
    first, _ = trial.write(rows)
    assert (first["completed"], first["failed"], first["skipped"]) == (29, 1, 1)
    trial.server.answer = lambda request: completion()
    trial.server.requests.clear()
    second, sent = trial.write([*LATE[:31], ("empty", "Not any more.")])
    asked = [request["messages"][-1]["content"].split("\n")[0] for request in trial.server.requests]
    assert sorted(text[:12] for text in asked) == ["Document 3. ", "Document 30.", "Document 5. ", "Not any more"]
    assert (sent, second["completed"], second["reused"]["rows"]) == (4, 32, 28)


def test_of_several_earlier_datasets_each_row_is_reused_once(trial: Trial) -> None:
    first, _ = trial.write(LATE[:20])
    second, sent = trial.write(LATE[10:30])
    assert (sent, second["reused"]["rows"]) == (10, 10)
    third, sent = trial.write(LATE)
    assert (sent, third["reused"]["rows"]) == (10, 30)
    counts = third["reused"]["datasets"]
    assert counts.keys() <= {first["fingerprint"], second["fingerprint"]}
    assert sum(counts.values()) == 30


@pytest.mark.slow
def test_a_new_rule_for_eligible_documents_reuses_those_that_still_are(trial: Trial) -> None:
    trial.write(EARLY)
    long = [(id, text if number % 2 else "Too short.") for number, (id, text) in enumerate(EARLY)]
    trial.write(long)
    manifest, sent = trial.write(long, requires={"words": 10}, eligibility=1)
    assert (sent, manifest["completed"], manifest["skipped"], manifest["reused"]["rows"]) == (0, 15, 15, 15)


def test_reused_rows_keep_their_number_of_rollouts_which_are_not_counted_as_discarded_again(trial: Trial) -> None:
    seen: set[str] = set()

    def answer(request: dict[str, Any]) -> Any:
        status, body = completion("Some words")
        text = request["messages"][-1]["content"]
        body["choices"][0]["finish_reason"] = "stop" if text in seen else "length"  # type: ignore[index]
        seen.add(text)
        return status, body

    trial.server.answer = answer
    rule = {"most": 2, "keep": "first_passing", "check": "prose", "gates": {"truncated": {"blocking": True}}}
    first, sent = trial.write(EARLY[:5], rollouts=rule)
    assert (sent, first["discarded"]["rollouts"]) == (10, 5)
    second, sent = trial.write(EARLY[:7], rollouts=rule)
    assert (sent, second["discarded"]["rollouts"], second["reused"]["rows"]) == (4, 2, 5)
    assert [row["rollouts"] for row in trial.rows(EARLY[:7], rollouts=rule).values()] == [2] * 7


@pytest.mark.slow
def test_a_damaged_earlier_dataset_is_left_out_with_a_word_on_it(trial: Trial) -> None:
    first, _ = trial.write(EARLY)
    (trial.artifact(EARLY).folder / first["files"][0]["path"]).write_bytes(b"nothing")
    lines: list[str] = []
    manifest, sent = trial.write(LATE, lambda job: execute(job, log=lines.append))
    assert (sent, "reused" in manifest) == (40, False)
    assert any(first["files"][0]["path"] in line and "None of its completions is reused" in line for line in lines)


KILLED = """
import os, signal, sys
from finephrase_dagster.rephrase import chunks, ledger, takeover
from finephrase_dagster.production import division
from finephrase_dagster.rephrase.job import RephraseJob, execute
from finephrase_dagster.production.workers import execute_with_workers
left = int(sys.argv[2])
def killing(call):
    def counted(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return counted
if sys.argv[1] == "record":
    ledger.Ledger.record = killing(ledger.Ledger.record)
elif sys.argv[1] == "publish":
    ledger.PublishedChunks.publish = killing(chunks.PublishedChunks.publish)
elif sys.argv[1] == "looked":
    takeover.record_looked = killing(takeover.record_looked)
else:
    division.journal_line = killing(division.journal_line)
job = RephraseJob.model_validate_json(sys.stdin.read())
execute_with_workers(job, 1) if sys.argv[1] == "divide" else execute(job)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "after"), [("record", 17), ("publish", 2), ("looked", 0), ("divide", 17)])
def test_killed_in_between_no_row_is_both_reused_and_sent(trial: Trial, where: str, after: int) -> None:
    first, _ = trial.write(EARLY)
    command = [sys.executable, "-c", KILLED, where, str(after)]
    killed = subprocess.run(command, input=trial.job(LATE).model_dump_json().encode(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(trial.server.requests) == 30
    manifest, sent = trial.write(LATE, with_workers if where == "divide" else execute)
    assert (sent, manifest["completed"]) == (10, 40)
    assert manifest["reused"]["datasets"] == {first["fingerprint"]: 30}
    assert len(trial.rows(LATE)) == 40


@pytest.mark.slow
def test_a_run_that_is_resumed_looks_for_completions_once(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    trial.write(EARLY)
    trial.server.answer = lambda request: failure(401, "expired")
    with pytest.raises(Exception, match="expired"):
        trial.write(LATE)
    trial.server.answer = lambda request: completion()
    monkeypatch.setattr(takeover, "reusable", lambda *arguments: pytest.fail("looked twice"))
    manifest, _ = trial.write(LATE)
    assert manifest["reused"]["rows"] == 30


def test_reused_rows_leave_the_shards_of_workers_whole(trial: Trial) -> None:
    trial.server.answer = lambda request: (
        failure(400, "no") if "Document 8." in request["messages"][-1]["content"] else completion()
    )
    trial.write(EARLY)
    trial.server.answer = lambda request: completion()
    job = trial.job(LATE)
    _, survey, datasets = prepare(job, print)
    division.lay_out(datasets["plain"], survey, prompt="plain", rows=job.chunk_rows)
    shards = json.loads((trial.artifact(LATE).folder / SHARDS).read_text())["shards"]
    assert [stop - start for _, start, stop, _ in shards] == [7, 7, 7, 7, 7, 5]


@pytest.mark.slow
def test_a_shard_with_reused_rows_is_not_divided_among_workers(trial: Trial) -> None:
    rows = [*documents(10, start=100), *documents(30)]  # what is reused comes last
    trial.write(EARLY)
    job = trial.job(rows).model_copy(update={"chunk_rows": 100, "concurrency": 1})
    before = len(trial.server.requests)
    with ThreadPoolExecutor(2) as workers:
        for worker in [workers.submit(work, job, print) for _ in range(2)]:
            worker.result()
    manifest = execute(job)["plain"]
    assert len(trial.server.requests) - before == 10
    assert (manifest["completed"], manifest["reused"]["rows"]) == (40, 30)
    assert len(trial.rows(rows)) == 40


@pytest.mark.slow
def test_a_cell_of_a_study_reuses_completions_if_it_says_so_and_the_plan_says_how_many_at_most(tmp_path: Path) -> None:
    def study(limit: int, reuse: str) -> Lineage:
        text = (REPOSITORY / "studies" / "demo.yaml").read_text()
        text = text.replace("corpus: package_readmes, limit: 28", f"corpus: package_readmes, limit: {limit}")
        cell = "{generator: rephraser, source: package_readmes"
        (tmp_path / "study.yaml").write_text(text.replace(cell, f"{cell}{reuse}"))
        return read_lineage(Paths(data=tmp_path / "data", study=tmp_path / "study.yaml"))

    def reused(lineage: Lineage) -> list[str]:
        basis = plan(lineage).as_json()["stages"]["synthetic"]["basis"]
        return [line for line in basis if line.startswith("reuse")]

    assert reused(study(28, ", reuse: true")) == ["reuse: unknown until the source exists, all documents are counted"]
    complete(study(28, ""))
    lineage = study(20, ", reuse: true")
    cell = lineage.study.cells[0]
    lineage.source(cell.source).materialize(lambda folder: Contents(files=[], facts=FACTS["sources"], version="less"))
    assert reused(lineage) == ["reuse: at most 100 completions, which are counted"]
    for one, earlier in ((lineage, 2), (study(20, ""), 0)):
        datasets = {"faq": one.dataset(one.study.cells[0], "faq")}
        assert len(cell_job(one, one.study.cells[0], datasets).targets["faq"].earlier) == earlier
        assert datasets["faq"].fingerprint == lineage.dataset(cell, "faq").fingerprint


def test_all_cells_of_a_grid_reuse_completions() -> None:
    cells = list(CellGrid(generators=("a", "b"), source="c", reuse=True).cells())
    assert [cell["reuse"] for cell in cells] == [True, True]
    assert "reuse" not in next(CellGrid(generator="a", source="c").cells())
