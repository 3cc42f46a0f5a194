"""Every row is recorded exactly once, and failures with a reason: the pipeline against a server that misbehaves."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from finephrase_dagster.artifacts import folder
from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.claim import FolderBusy
from finephrase_dagster.artifacts.fingerprint import sha256_file, sha256_text
from finephrase_dagster.rephrase.dataset import LedgerError, NothingCompleted
from finephrase_dagster.rephrase.engine import EngineFailed, EngineLike
from finephrase_dagster.rephrase.reader import InputUnreadable
from finephrase_dagster.rephrase.survey import DuplicateId, NoRows
from finephrase_dagster.study.generator import Sampling
from rephrase_parts import (
    LocalServer,
    completion,
    datasets,
    documents,
    failure,
    generator,
    local_server,
    rejected_of,
    rephrase_corpus,
    rows_of,
    shorten_pauses,
    write_corpus,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        yield one


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


Run = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def run(server: LocalServer, model: Path) -> Run:
    def go(corpus: Path, wanted: dict[str, Artifact], **changes: Any) -> dict[str, dict[str, Any]]:
        arguments = {"model": model, "engine": lambda: server, **changes}
        return rephrase_corpus(corpus, wanted, **arguments)

    return go


def no_engine() -> EngineLike:
    raise AssertionError("nothing is to be sent")


def test_a_dataset_holds_every_document_once_in_the_documented_layout(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    server.answer = lambda request: completion(f"Here is the text:\n\n{request['seed']}")
    texts = dict(documents(11))
    rows = list(texts.items())
    wanted = datasets(tmp_path / "data")
    manifests = run(write_corpus(tmp_path / "corpus", [rows[:6], rows[6:]]), wanted)
    for name, artifact in wanted.items():
        manifest = manifests[name]
        assert manifest == artifact.manifest()
        counts = [manifest[key] for key in ("rows_in", "completed", "skipped", "failed")]
        assert counts == [11, 11, 0, 0]
        assert (manifest["prompt_tokens"], manifest["completion_tokens"]) == (11 * 11, 11 * 3)
        assert manifest["fingerprint"] == artifact.fingerprint
        assert [set(file) for file in manifest["files"]] == [{"path", "rows", "sha256"}] * 4
        assert [file["rows"] for file in manifest["files"]] == [4, 2, 4, 1]
        for file in manifest["files"]:
            assert file["sha256"] == sha256_file(artifact.folder / file["path"])
        found = rows_of(artifact)
        assert [row["id"] for row in found] == list(texts)
        for row in found:
            assert row["prompt"] == name
            assert row["text"].isdigit()
            assert (row["finish_reason"], row["document_cut"]) == ("stop", False)
            assert row["document_sha256"] == sha256_text(texts[row["id"]])
        assert rejected_of(artifact) == []
        assert {path.name for path in artifact.folder.iterdir()} == {
            "__meta__",
            *(file["path"] for file in manifest["files"]),
        }


def test_requests_carry_the_sampling_values_of_the_recipe(tmp_path: Path, server: LocalServer, run: Run) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(6)])
    sampled = generator(sampling=Sampling(temperature=0.5, top_p=0.9, top_k=40, seed=3))
    run(corpus, datasets(tmp_path / "data", spec=sampled))
    for request in server.requests:
        said = [request[key] for key in ("model", "max_tokens", "temperature", "top_p", "top_k")]
        assert said == ["tiny", 24, 0.5, 0.9, 40]
    assert len({request["seed"] for request in server.requests}) == 12
    first = {request["messages"][-1]["content"]: request["seed"] for request in server.requests}
    server.requests.clear()
    run(corpus, datasets(tmp_path / "again", spec=sampled))
    assert first == {request["messages"][-1]["content"]: request["seed"] for request in server.requests}
    server.requests.clear()
    run(corpus, datasets(tmp_path / "other", spec=generator(sampling=Sampling(seed=4))))
    assert not {request["seed"] for request in server.requests} & set(first.values())


def test_the_prompts_of_a_document_follow_one_another(tmp_path: Path, server: LocalServer, run: Run) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(10)])
    run(corpus, datasets(tmp_path / "data"), concurrency=1)
    order = [request["messages"][-1]["content"].split("Document ")[1].split(".")[0] for request in server.requests]
    assert order == [str(number) for number in range(10) for _ in range(2)]


def test_rows_without_text_are_skipped_with_the_reason(tmp_path: Path, server: LocalServer, run: Run) -> None:
    rows = [("null", None), ("empty", ""), ("blank", " \n\t"), ("latin", b"caf\xe9"), ("one", "a"), *documents(2)]
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [rows]), wanted)["plain"]
    assert [manifest[key] for key in ("rows_in", "completed", "skipped", "failed")] == [7, 3, 4, 0]
    assert [row["id"] for row in rows_of(wanted["plain"])] == ["one", "doc-0", "doc-1"]
    assert {row["id"]: (row["status"], row["reason"]) for row in rejected_of(wanted["plain"])} == {
        "null": ("skipped", "text is missing"),
        "empty": ("skipped", "text is empty"),
        "blank": ("skipped", "text is empty"),
        "latin": ("skipped", "text is not UTF-8 (byte 0xE9 at character 3)"),
    }
    assert len(server.requests) == 3


def test_no_engine_is_started_if_there_is_nothing_to_send(tmp_path: Path, run: Run) -> None:
    corpus = write_corpus(tmp_path / "corpus", [[("a", ""), ("b", None)], []])
    wanted = datasets(tmp_path / "data")
    manifests = run(corpus, wanted, engine=no_engine)
    assert manifests["plain"]["skipped"] == 2
    assert run(corpus, wanted, engine=no_engine) == manifests


def test_a_row_that_the_server_refuses_fails_with_its_reason(tmp_path: Path, server: LocalServer, run: Run) -> None:
    server.answer = lambda request: (
        failure(400, "this is too long") if "Document 2." in str(request["messages"]) else completion()
    )
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [documents(5)]), wanted)["plain"]
    assert [manifest[key] for key in ("rows_in", "completed", "skipped", "failed")] == [5, 4, 0, 1]
    assert rejected_of(wanted["plain"]) == [{"id": "doc-2", "status": "failed", "reason": "HTTP 400: this is too long"}]
    assert len(server.asked("Document 2.")) == 1


@pytest.mark.parametrize("trouble", [failure(429, "slow down"), failure(503, "busy"), (200, {"choices": []}), None])
def test_a_temporary_failure_loses_no_row(tmp_path: Path, server: LocalServer, run: Run, trouble: Any) -> None:
    asked: Counter[str] = Counter()

    def answer(request: dict[str, Any]) -> Any:
        words = str(request["messages"])
        asked[words] += 1
        return trouble if asked[words] <= 2 else completion()

    server.answer = answer
    manifest = run(write_corpus(tmp_path / "corpus", [documents(6)]), datasets(tmp_path / "data", ["plain"]))["plain"]
    assert manifest["completed"] == 6
    assert set(asked.values()) == {3}


def test_a_row_that_always_fails_is_given_up_while_others_succeed(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    server.answer = lambda request: (
        failure(500, "it chokes") if "Document 3." in str(request["messages"]) else completion()
    )
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [documents(4)]), wanted)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (3, 1)
    assert rejected_of(wanted["plain"])[0]["reason"] == "given up after 5 attempts: HTTP 500: it chokes"
    assert len(server.asked("Document 3.")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("poisoned", [range(26, 30), range(5), range(10, 28)])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_consecutive_failing_rows_are_given_up_wherever_they_are(
    tmp_path: Path, server: LocalServer, run: Run, poisoned: range, concurrency: int
) -> None:
    bad = [f"Document {number}." for number in poisoned]
    server.answer = lambda request: (
        failure(500, "it chokes") if any(words in str(request["messages"]) for words in bad) else completion()
    )
    wanted = datasets(tmp_path / "data", ["plain"])
    corpus = write_corpus(tmp_path / "corpus", [documents(30)])
    manifest = run(corpus, wanted, concurrency=concurrency)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (30 - len(poisoned), len(poisoned))


@pytest.mark.slow
def test_failing_rows_are_given_up_also_when_only_they_are_left(tmp_path: Path, server: LocalServer, run: Run) -> None:
    wanted = datasets(tmp_path / "data", ["plain"])
    corpus = write_corpus(tmp_path / "corpus", [documents(12)])
    server.answer = lambda request: completion() if len(server.requests) <= 9 else failure(401, "expired")
    with pytest.raises(EngineFailed, match="expired"):
        run(corpus, wanted, concurrency=1)
    done = {request["messages"][-1]["content"] for request in server.requests[:9]}
    server.answer = lambda request: (
        completion() if request["messages"][-1]["content"] in done else failure(500, "it chokes")
    )
    manifest = run(corpus, wanted)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (9, 3)


@pytest.mark.slow
@pytest.mark.parametrize("left", [3, 20])
@pytest.mark.parametrize("concurrency", [1, 64])
def test_an_endpoint_that_starts_to_answer_only_errors_fails_no_row(
    tmp_path: Path, server: LocalServer, run: Run, left: int, concurrency: int
) -> None:
    wanted = datasets(tmp_path / "data", ["plain"])
    corpus = write_corpus(tmp_path / "corpus", [documents(40)])
    server.answer = lambda request: completion() if len(server.requests) <= 40 - left else failure(500, "broken")
    for _ in range(2):
        with pytest.raises(EngineFailed, match="HTTP 500: broken"):
            run(corpus, wanted, concurrency=concurrency)
    server.answer = lambda request: completion()
    manifest = run(corpus, wanted)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (40, 0)


@pytest.mark.slow
def test_completing_an_older_request_does_not_fail_newer_rows(tmp_path: Path, server: LocalServer, run: Run) -> None:
    def answer(request: dict[str, Any]) -> Any:
        number = len(server.requests)
        if number <= 8:
            time.sleep(0.2 * number)
            return completion()
        return failure(500, "dead since then") if "ok" not in server.model else completion()

    server.answer = answer
    wanted = datasets(tmp_path / "data", ["plain"])
    corpus = write_corpus(tmp_path / "corpus", [documents(12)])
    with pytest.raises(EngineFailed, match="dead since then"):
        run(corpus, wanted, concurrency=8)
    server.model = "ok"
    manifest = run(corpus, wanted)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (12, 0)


def test_a_refused_row_does_not_show_that_the_model_works(tmp_path: Path, server: LocalServer, run: Run) -> None:
    def answer(request: dict[str, Any]) -> Any:
        if "Document 15." in str(request["messages"]):
            return failure(400, "refused at the door")
        return completion() if len(server.requests) <= 10 or "ok" in server.model else failure(500, "dead behind it")

    server.answer = answer
    wanted = datasets(tmp_path / "data", ["plain"])
    corpus = write_corpus(tmp_path / "corpus", [documents(30)])
    with pytest.raises(EngineFailed, match="dead behind it"):
        run(corpus, wanted, concurrency=4)
    server.model = "ok"
    manifest = run(corpus, wanted)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (29, 1)


@pytest.mark.slow
@pytest.mark.parametrize("status", [204, 301, 401, 403, 404])
def test_one_row_that_a_gateway_rejects_does_not_stop_the_others(
    tmp_path: Path, server: LocalServer, run: Run, status: int
) -> None:
    server.answer = lambda request: (
        failure(status, "not this one") if "Document 7." in str(request["messages"]) else completion()
    )
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [documents(20)]), wanted, concurrency=2)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (19, 1)


def outage(server: LocalServer, trouble: Any, *, after: int, seconds: float) -> None:
    """Make the server fail for some seconds, once it has answered `after` requests."""
    began: list[float] = []

    def is_over() -> bool:
        if len(server.requests) <= after:
            return True
        began.append(time.monotonic())
        return began[-1] - began[0] > seconds

    server.answer = lambda request: completion() if is_over() else trouble


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [failure(503, "loading"), failure(429, "slow"), None])
@pytest.mark.parametrize(("after", "count"), [(0, 6), (20, 60), (20, 24)], ids=["at-the-start", "amid", "at-the-end"])
def test_an_outage_fails_no_row(
    tmp_path: Path, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch, trouble: Any, after: int, count: int
) -> None:
    shorten_pauses(monkeypatch, outage=5.0, outage_at_start=5.0, throttled_row=0.3, throttled_outage=5.0)
    outage(server, trouble, after=after, seconds=0.8)  # ten times as long as the attempts of a row
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [documents(count)]), wanted, concurrency=8)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (count, 0)


def test_a_bad_row_fails_in_spite_of_an_outage_and_no_other_does(
    tmp_path: Path, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch, outage=5.0)
    outage(server, None, after=20, seconds=0.5)
    answer = server.answer
    server.answer = lambda request: failure(500, "it chokes") if "Document 3." in str(request) else answer(request)
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [documents(60)]), wanted, concurrency=8)["plain"]
    assert [row["id"] for row in rejected_of(wanted["plain"])] == ["doc-3"]
    assert manifest["completed"] == 59


def test_a_server_that_only_throttles_stops_the_run(
    tmp_path: Path, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch, throttled_row=0.2, throttled_outage=0.6)
    server.answer = lambda request: failure(429, "quota exceeded")
    with pytest.raises(EngineFailed, match="quota exceeded"):
        run(write_corpus(tmp_path / "corpus", [documents(6)]), datasets(tmp_path / "data"), concurrency=4)


def test_a_server_that_hangs_is_named_in_the_log_and_stops_the_run(
    tmp_path: Path, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch, notice=0.1, first_answer=0.5, slowest_pace=1e9)
    over = threading.Event()
    server.answer = lambda request: completion() if over.wait(20) else None
    lines: list[str] = []
    corpus = write_corpus(tmp_path / "corpus", [documents(6)])
    with pytest.raises(EngineFailed, match=rf"{server.url} answers nothing \(no answer within"):
        run(corpus, datasets(tmp_path / "data"), log=lines.append)
    over.set()
    assert any(line.startswith("no answer for 0 s from " + server.url) for line in lines)


ODD = [
    {"usage": {"prompt_tokens": 10**30, "completion_tokens": 1}},
    {"usage": {"prompt_tokens": -5, "completion_tokens": 1}},
    {"usage": {"prompt_tokens": 2**63, "completion_tokens": 1}},
    {"usage": {"prompt_tokens": [11], "completion_tokens": 1}},
    {"usage": "unknown"},
]


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_an_answer_with_impossible_token_counts_is_kept_and_counts_as_not_counted(
    tmp_path: Path, server: LocalServer, run: Run, odd: dict[str, Any]
) -> None:
    server.answer = lambda request: (
        (200, {**completion()[1], **odd}) if "Document 3." in str(request["messages"]) else completion()
    )
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [documents(30)]), wanted)["plain"]
    assert (manifest["completed"], manifest["failed"]) == (30, 0)
    assert manifest["prompt_tokens"] == 29 * 11
    assert len(server.requests) == 30


@pytest.mark.slow
def test_a_damaged_file_is_reported_before_a_dataset_is_complete(tmp_path: Path, server: LocalServer, run: Run) -> None:
    wanted = datasets(tmp_path / "data", ["plain"])
    corpus = write_corpus(tmp_path / "corpus", [documents(12)])
    server.answer = lambda request: (
        time.sleep(0.15) or completion() if len(server.requests) <= 9 else failure(401, "expired")
    )
    with pytest.raises(EngineFailed):
        run(corpus, wanted, concurrency=1)
    part = min(wanted["plain"].folder.glob("part-*.parquet"))
    content = bytearray(part.read_bytes())
    content[60] ^= 1
    part.write_bytes(content)
    server.answer = lambda request: completion()
    with pytest.raises(LedgerError, match=r"part-00000-00000\.parquet is damaged.*Delete it and __meta__/chunks/"):
        run(corpus, wanted)
    part.unlink()
    (part.parent / "__meta__" / "chunks" / part.name).unlink()
    assert run(corpus, wanted)["plain"]["completed"] == 12
    assert len(rows_of(wanted["plain"])) == 12


@pytest.mark.parametrize("lost", ["__meta__/manifest.json", "part-00000-00001.parquet"])
def test_only_the_lost_rows_of_a_complete_dataset_are_redone(
    tmp_path: Path, server: LocalServer, run: Run, lost: str
) -> None:
    wanted = datasets(tmp_path / "data", ["plain"])
    corpus = write_corpus(tmp_path / "corpus", [documents(12)])
    run(corpus, wanted)
    folder_ = wanted["plain"].folder
    (folder_ / lost).unlink()
    server.requests.clear()
    if lost != "__meta__/manifest.json":
        with pytest.raises(
            LedgerError, match=rf"{lost} is missing. Delete __meta__/manifest\.json and run the command again"
        ):
            run(corpus, wanted)
        (folder_ / "__meta__" / "manifest.json").unlink()
    assert run(corpus, wanted)["plain"]["completed"] == 12
    assert len(server.requests) == (0 if lost == "__meta__/manifest.json" else 4)
    assert sorted(row["id"] for row in rows_of(wanted["plain"])) == sorted(f"doc-{number}" for number in range(12))


def test_a_folder_without_rows_accepts_another_recipe(tmp_path: Path, server: LocalServer, run: Run) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(3)])
    wanted = datasets(tmp_path / "data", ["plain"])
    server.answer = lambda request: failure(404, "no such model")
    with pytest.raises(EngineFailed):
        run(corpus, wanted)
    other = {"plain": replace(wanted["plain"], recipe={**wanted["plain"].recipe, "model": "another"})}
    moved = wanted["plain"].folder.rename(other["plain"].folder)
    server.answer = lambda request: completion()
    assert run(corpus, other)["plain"]["completed"] == 3
    assert (moved / "__meta__" / "manifest.json").is_file()


@pytest.mark.slow
def test_an_endpoint_that_dies_stops_the_run_and_finished_rows_are_kept(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(40)])
    wanted = datasets(tmp_path / "data", ["plain"])
    server.answer = lambda request: completion("first") if len(server.requests) <= 20 else None
    with pytest.raises(EngineFailed, match=r"answers nothing.*run the same command again"):
        run(corpus, wanted, concurrency=4)
    assert not wanted["plain"].complete
    kept = {path.name: path.stat().st_mtime_ns for path in wanted["plain"].folder.glob("part-*.parquet")}
    assert kept
    server.requests.clear()
    server.answer = lambda request: completion("second")
    manifest = run(corpus, wanted, concurrency=4)["plain"]
    assert manifest["completed"] == 40
    assert len(server.requests) == 20
    assert Counter(row["text"] for row in rows_of(wanted["plain"])) == {"first": 20, "second": 20}
    assert manifest["run"]["done_before"] == 20
    for name, written in kept.items():
        assert (wanted["plain"].folder / name).stat().st_mtime_ns == written


def test_an_unreachable_endpoint_is_an_error_and_writes_no_dataset(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    wanted = datasets(tmp_path / "data", ["plain"])
    server.url = "http://127.0.0.1:9"
    with pytest.raises(EngineFailed, match=r"http://127\.0\.0\.1:9 answers nothing"):
        run(write_corpus(tmp_path / "corpus", [documents(6)]), wanted)
    assert not wanted["plain"].complete


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_model_stops_at_once(tmp_path: Path, server: LocalServer, run: Run, status: int) -> None:
    server.answer = lambda request: failure(status, "unknown")
    with pytest.raises(
        EngineFailed, match=rf"(refuses the API key|does not know the path or the model) \(HTTP {status}: unknown\)"
    ):
        run(write_corpus(tmp_path / "corpus", [documents(6)]), datasets(tmp_path / "data"), concurrency=2)
    assert len(server.requests) <= 2


def test_a_run_without_a_completion_fails_writes_no_manifest_and_is_tried_again(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [[*documents(3), ("none", None)]])
    wanted = datasets(tmp_path / "data")
    server.answer = lambda request: failure(400, "unknown field 'seed'")
    for attempt in (1, 2):
        with pytest.raises(NothingCompleted, match=r"reason is: HTTP 400: unknown field 'seed'\. Remove .* again"):
            run(corpus, wanted)
        assert len(server.requests) == 6 * attempt
    assert not list((tmp_path / "data").rglob("manifest.json"))
    server.answer = lambda request: completion()
    assert [manifest["completed"] for manifest in run(corpus, wanted).values()] == [3, 3]


def test_a_model_that_only_reasons_completes_nothing_and_the_remedy_is_named(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    answers = iter(range(99))

    def answer(request: dict[str, Any]) -> Any:
        message = {"content": None, "reasoning": "Let me see"} if next(answers) % 2 else {"content": "<think>Let me se"}
        return 200, {"choices": [{"message": message, "finish_reason": "length"}]}

    server.answer = answer
    wanted = datasets(tmp_path / "data", ["plain"])
    with pytest.raises(NothingCompleted, match=r"spent max_tokens on reasoning\. Raise --max-tokens"):
        run(write_corpus(tmp_path / "corpus", [documents(4)]), wanted)
    assert len(server.requests) == 4


def test_what_cleaning_removed_is_counted(tmp_path: Path, server: LocalServer, run: Run) -> None:
    texts = iter(["<think>hm</think>A.", "```\nB.\n```", "<think>hm</think>```\nC.\n```", "D.", "</think> E."])
    server.answer = lambda request: completion(next(texts))
    wanted = datasets(tmp_path / "data", ["plain"])
    manifest = run(write_corpus(tmp_path / "corpus", [documents(5)]), wanted, concurrency=1)["plain"]
    assert manifest["cleaned"] == {"fence": 2, "thought": 2}
    assert [(row["text"], row["cleaned"]) for row in rows_of(wanted["plain"])] == [
        *[("A.", "thought"), ("B.", "fence"), ("C.", "thought,fence"), ("D.", ""), ("</think> E.", "")]
    ]


@pytest.mark.slow
def test_failed_rows_of_a_complete_dataset_are_sent_again_on_request(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [[*documents(9), ("none", None)]])
    wanted = datasets(tmp_path / "data", ["plain"])
    bad = ("Document 2.", "Document 5.", "Document 8.")
    server.answer = lambda request: (
        failure(400, "not now") if any(words in str(request) for words in bad) else completion("first")
    )
    first = run(corpus, wanted)["plain"]
    assert run(corpus, wanted)["plain"] == first, "only on request"
    server.requests.clear()
    server.answer = lambda request: completion("second") if len(server.requests) == 1 else failure(401, "expired")
    with pytest.raises(EngineFailed, match="expired"):  # it is interrupted in the middle
        run(corpus, wanted, retry_failed=True, concurrency=1)
    assert not wanted["plain"].complete
    server.answer = lambda request: failure(400, "too dull") if "Document 8." in str(request) else completion("third")
    manifest = run(corpus, wanted, retry_failed=True)["plain"]
    assert [manifest[name] for name in ("rows_in", "completed", "skipped", "failed")] == [10, 8, 1, 1]
    assert manifest["fingerprint"] == first["fingerprint"]
    assert Counter(row["text"] for row in rows_of(wanted["plain"])) == {"first": 6, "second": 1, "third": 1}
    assert {file["path"]: file for file in first["files"]}.items() <= {
        file["path"]: file for file in manifest["files"]
    }.items()
    assert {row["id"]: row["reason"] for row in rejected_of(wanted["plain"])} == {
        "doc-8": "HTTP 400: too dull",
        "none": "text is missing",
    }


def test_a_dataset_without_completions_is_complete_and_the_log_says_how_to_retry(
    tmp_path: Path, server: LocalServer, run: Run
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(6)])
    wanted = datasets(tmp_path / "data")
    server.answer = lambda request: failure(400, "no system message") if len(request["messages"]) == 2 else completion()
    lines: list[str] = []
    manifests = run(corpus, wanted, log=lines.append)
    assert (manifests["plain"]["completed"], manifests["before"]["failed"]) == (6, 6)
    assert any(
        "before: no row has a completion. The most common reason is: HTTP 400: no system message" in line
        for line in lines
    )


def test_duplicate_ids_are_refused_and_one_is_named(tmp_path: Path, run: Run) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(4), [("new", "text"), ("doc-2", "other text")]])
    with pytest.raises(DuplicateId, match="more than one row has the id 'doc-2'"):
        run(corpus, datasets(tmp_path / "data"), engine=no_engine)


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_id_is_refused_with_its_file_and_row(tmp_path: Path, run: Run, missing: str | None) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(3), [("a", "text"), (missing, "text")]])
    with pytest.raises(InputUnreadable, match=r"shard-00001.parquet: row 2 has no id"):
        run(corpus, datasets(tmp_path / "data"), engine=no_engine)


def test_an_empty_folder_and_an_unreadable_file_are_named(tmp_path: Path, run: Run) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(NoRows):
        run(tmp_path / "corpus", datasets(tmp_path / "data"))
    (tmp_path / "corpus" / "shard-00000.parquet").write_text("no")
    with pytest.raises(
        InputUnreadable, match=r"shard-00000\.parquet: does not begin like a file with the ending of its name"
    ):
        run(tmp_path / "corpus", datasets(tmp_path / "data"))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["chunks", "order", "division", "nothing"])
def test_an_interrupted_run_resumes_with_other_execution_settings(
    tmp_path: Path, server: LocalServer, run: Run, change: str
) -> None:
    rows = documents(23)
    wanted = datasets(tmp_path / "data")
    server.answer = lambda request: completion("a") if len(server.requests) <= 24 else None
    with pytest.raises(EngineFailed):
        run(write_corpus(tmp_path / "corpus", [rows[:10], rows[10:]]), wanted, chunk_rows=3, concurrency=2)
    server.requests.clear()
    server.answer = lambda request: completion("b")
    again = [rows[::-1]] if change == "order" else [rows[:4], rows[4:6], rows[6:]] if change == "division" else None
    corpus = write_corpus(tmp_path / "again", again or [rows[:10], rows[10:]])
    run(corpus, wanted, chunk_rows=5 if change == "chunks" else 3)
    assert len(server.requests) == 46 - 24
    texts = Counter(row["text"] for artifact in wanted.values() for row in rows_of(artifact))
    assert texts == {"a": 24, "b": 22}
    for artifact in wanted.values():
        assert sorted(row["id"] for row in rows_of(artifact)) == sorted(name for name, _ in rows)


def test_a_full_disk_stops_the_run_and_leaves_no_partial_file(
    tmp_path: Path, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(12)])
    wanted = datasets(tmp_path / "data", ["plain"])
    write, written = os.write, []

    def until_full(file: int, content: bytes) -> int:
        written.append(content)
        return write(file, content[:40]) if len(written) == 7 else write(file, content)

    monkeypatch.setattr(folder.os, "write", until_full)
    with pytest.raises(LedgerError, match=r"No space left on device.*make room.*run the command again"):
        run(corpus, wanted, concurrency=1)
    monkeypatch.undo()
    left = [path for path in wanted["plain"].folder.rglob("*") if path.is_file()]
    assert [path.name for path in left if path.name.endswith(".partial")] == []
    for path in left:
        if path.suffix == ".parquet":
            pq.read_table(path)
    assert len(server.requests) == 7
    assert run(corpus, wanted)["plain"]["completed"] == 12
    assert len(server.requests) == 13


def test_two_processes_cannot_write_one_dataset(tmp_path: Path, run: Run) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(2)])
    wanted = datasets(tmp_path / "data", ["plain"])
    with folder.LocalFolder(wanted["plain"].folder).claim(), pytest.raises(FolderBusy, match="another process"):
        run(corpus, wanted, engine=no_engine)
    assert run(corpus, wanted)["plain"]["completed"] == 2


async def _from_a_running_loop(go: Callable[[], Any]) -> Any:
    return go()


def test_it_runs_inside_a_running_event_loop(tmp_path: Path, run: Run) -> None:
    import asyncio

    corpus = write_corpus(tmp_path / "corpus", [documents(2)])
    manifests = asyncio.run(_from_a_running_loop(lambda: run(corpus, datasets(tmp_path / "data"))))
    assert manifests["plain"]["completed"] == 2
