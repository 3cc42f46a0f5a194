"""The Python API: documents in, datasets out, in a script or a notebook; and jobs that travel as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from dagster_pipes import PipesContext

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.dataset import DatasetMissing, read_dataset
from finephrase_dagster.rephrase.documents import rephrase_documents
from finephrase_dagster.rephrase.job import RephraseJob, build_job, execute
from finephrase_dagster.rephrase.location import LocationInvalid
from finephrase_dagster.rephrase.model_source import JobInvalid
from finephrase_dagster.rephrase.reader import InputUnreadable
from finephrase_dagster.rephrase.worker import DONE, JOB, work
from rephrase_parts import LocalServer, completion, documents, failure, local_server

HEAVY = ("dagster", "torch", "vllm", "transformers", "mlflow", "datasets")


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        yield one


def test_a_list_of_texts_becomes_a_dataset(tmp_path: Path, server: LocalServer) -> None:
    dataset = rephrase_documents(
        ["A text.", "Another text."], prompt="faq", output=tmp_path, endpoint=server.url, model="tiny", temperature=0.5
    )
    assert len(dataset) == 2
    assert sorted((row["id"], row["text"]) for row in dataset.rows) == [("0", "Some words."), ("1", "Some words.")]
    assert dataset.table().column_names[:3] == ["id", "prompt", "text"]
    assert dataset.manifest["recipe"]["sampling"]["temperature"] == 0.5
    assert {request["temperature"] for request in server.requests} == {0.5}
    again = rephrase_documents(
        ["A text.", "Another text."], prompt="faq", output=tmp_path, endpoint=server.url, model="tiny", temperature=0.5
    )
    assert (again.manifest, len(server.requests)) == (dataset.manifest, 2)


def test_columns_may_have_other_names_and_lie_in_nested_fields(tmp_path: Path, server: LocalServer) -> None:
    plain, nested = tmp_path / "plain.jsonl", tmp_path / "nested.jsonl"
    plain.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in documents(3)))
    nested.write_text("".join(json.dumps({"m": {"k": name}, "body": text}) + "\n" for name, text in documents(3)))
    made = [
        rephrase_documents(file, prompt="faq", output=tmp_path / "out", endpoint=server.url, model="tiny", **options)
        for file, options in ((nested, {"columns": ("m.k", "body")}), (plain, {}))
    ]
    assert made[0].manifest == made[1].manifest, "the names of columns are not part of the recipe"
    assert len(server.requests) == 3
    assert sorted(row["id"] for row in made[0].rows) == sorted(name for name, _ in documents(3))
    with pytest.raises(InputUnreadable, match=r"no row has a field 'words'; its fields are body, m\. Name it"):
        rephrase_documents(
            nested, prompt="faq", output=tmp_path / "no", endpoint=server.url, model="tiny", columns=("m.k", "words")
        )


def test_sampling_is_sent_and_part_of_the_recipe(tmp_path: Path, server: LocalServer) -> None:
    made = rephrase_documents(
        ["A text."], prompt="faq", output=tmp_path, endpoint=server.url, model="tiny", top_p=0.9, top_k=40
    )
    assert {(request["top_p"], request["top_k"]) for request in server.requests} == {(0.9, 40)}
    assert {name: made.manifest["recipe"]["sampling"][name] for name in ("top_p", "top_k")} == {
        "top_p": 0.9,
        "top_k": 40,
    }
    for wrong in ({"top_p": 0.0}, {"top_p": float("nan")}, {"top_k": -2}):
        with pytest.raises(JobInvalid, match="--top-"):
            rephrase_documents(["A text."], prompt="faq", output=tmp_path, endpoint=server.url, model="tiny", **wrong)


def test_the_default_length_fits_the_context_of_a_small_server(tmp_path: Path, server: LocalServer) -> None:
    said: list[str] = []
    server.context = 2000
    made = rephrase_documents(
        ["A text."], prompt="faq", output=tmp_path, endpoint=server.url, model="tiny", log=said.append
    )
    assert {request["max_tokens"] for request in server.requests} == {1000}
    assert made.manifest["recipe"]["max_tokens"] == 1000
    assert "completions have at most 1000 tokens, half of the context; --max-tokens sets another limit" in said


def test_dictionaries_and_files_become_one_dataset_per_prompt(tmp_path: Path, server: LocalServer) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in documents(3)))
    server.answer = lambda request: (
        failure(400, "refused") if "Document 1." in str(request["messages"]) else completion()
    )
    rows = [{"id": "mine", "text": "My text."}, file]
    made = rephrase_documents(
        rows, prompt=["faq", "math"], output=tmp_path / "out", endpoint=[server.url], model="tiny"
    )
    for prompt in ("faq", "math"):
        assert sorted(row["id"] for row in made[prompt].rows) == ["doc-0", "doc-2", "mine"]
        assert made[prompt].rejected().to_pylist() == [
            {"id": "doc-1", "status": "failed", "reason": "HTTP 400: refused"}
        ]
        assert read_dataset(tmp_path / "out" / prompt) == made[prompt]
    for path in (file, str(file)):
        one = rephrase_documents(path, prompt="faq", output=tmp_path / "one", endpoint=server.url, model="tiny")
        assert one.manifest["rows_in"] == 3


def test_it_works_where_an_event_loop_runs_already(tmp_path: Path, server: LocalServer) -> None:
    async def cell() -> int:
        return len(rephrase_documents(["A text."], prompt="faq", output=tmp_path, endpoint=server.url, model="tiny"))

    assert asyncio.run(cell()) == 1


def test_a_folder_without_a_dataset_is_named_with_what_to_do(tmp_path: Path, server: LocalServer) -> None:
    rephrase_documents(["A text."], prompt="faq", output=tmp_path / "out", endpoint=server.url, model="tiny")
    with pytest.raises(DatasetMissing, match=r"open one of them: .*out/faq"):
        read_dataset(tmp_path / "out")
    with pytest.raises(DatasetMissing, match="run the same command again to resume"):
        read_dataset(tmp_path / "nothing")


def test_contradicting_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="either --generator NAME, or --endpoint URL"):
        rephrase_documents(["A text."], prompt="faq", output=tmp_path)
    with pytest.raises(JobInvalid, match="--generator and --endpoint exclude each other; give one of them"):
        rephrase_documents(
            ["A text."], prompt="faq", output=tmp_path, endpoint="http://127.0.0.1:9", generator="rephraser"
        )
    with pytest.raises(JobInvalid, match="--endpoint needs --model"):
        rephrase_documents(["A text."], prompt="faq", output=tmp_path, endpoint="http://127.0.0.1:9")
    with pytest.raises(JobInvalid, match=r"concurrency: .*greater than or equal to 1"):
        rephrase_documents(
            ["A"], prompt="faq", output=tmp_path, endpoint="http://x", model="tiny", context=4096, concurrency=0
        )


def test_input_and_output_are_checked_before_an_endpoint_is_asked(
    tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finephrase_dagster.rephrase.model_source.read_context", lambda *_: pytest.fail("was asked"))
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"id": "a", "text": "A text."}))
    options: dict[str, Any] = {"prompts": ["faq"], "endpoints": [server.url], "model": "tiny"}
    with pytest.raises(InputUnreadable, match=r"none\.jsonl: no such file"):
        build_job([str(tmp_path / "none.jsonl")], output=str(tmp_path / "out"), **options)
    with pytest.raises(LocationInvalid, match="is a file; name a folder"):
        build_job([str(file)], output=str(file), **options)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([1], r"documents\[0\] is an int; write a text or {'id': \.\.\., 'text': \.\.\.}"),
        (["A text.", {"id": "a", "body": "A text."}], r"documents\[1\] has no 'text'; write {'id'"),
        ([{"id": "a", "text": ["A text."]}], r"the text of documents\[0\] is a list; write a string"),
        ([{"text": "A text."}], r"documents\[0\] has no id"),
        ({"id": "a", "text": "A text."}, "documents is a dict; write a list of texts"),
        (7, "documents is an int; write a list of texts"),
    ],
)
def test_a_document_of_a_wrong_type_is_named_with_its_position(tmp_path: Path, given: Any, complaint: str) -> None:
    with pytest.raises(FinephraseError, match=complaint) as caught:
        rephrase_documents(given, prompt="faq", output=tmp_path, endpoint="http://127.0.0.1:9", model="tiny")
    assert caught.value.exit_status == 2


def test_a_tokenizer_that_cannot_be_loaded_is_refused_with_the_option(tmp_path: Path, server: LocalServer) -> None:
    remedy = r"Correct --tokenizer, name a local folder, or leave it out to cut by bytes\."
    with pytest.raises(FinephraseError, match=rf"the tokenizer cannot be loaded: [\s\S]*\. {remedy}$"):
        rephrase_documents(
            ["A text."], prompt="faq", output=tmp_path, endpoint=server.url, model="tiny", tokenizer=str(tmp_path)
        )
    assert server.requests == []


def test_a_job_survives_the_way_to_another_process_as_json(tmp_path: Path, server: LocalServer) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"id": "a", "text": "A text."}))
    job = build_job([str(file)], prompts=["faq"], output=str(tmp_path), endpoints=[server.url], model="tiny", seed=7)
    copy = RephraseJob.model_validate_json(job.model_dump_json())
    assert copy == job
    assert execute(copy)["faq"]["completed"] == 1
    assert execute(job)["faq"] == read_dataset(tmp_path / "faq").manifest


@pytest.mark.slow
def test_rephrasing_with_an_endpoint_imports_no_heavy_library(tmp_path: Path, server: LocalServer) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"id": "a", "text": "A text."}))
    words = ["rephrase", "--input", str(file), "--prompt", "faq", "--output", str(tmp_path / "out")]
    words += ["--endpoint", server.url, "--model", "tiny"]
    script = (
        "import sys\nfrom finephrase_dagster.commands.main import app\n"
        f"app({words!r}, standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


class Pipes:
    """A stand-in for the Pipes session of a pod's worker."""

    def __init__(self, job: RephraseJob) -> None:
        self.extras = {JOB: job.model_dump(mode="json")}
        self.messages: list[Any] = []
        self.log = logging.getLogger("worker")

    def get_extra(self, key: str) -> Any:
        return self.extras[key]

    def report_custom_message(self, message: Any) -> None:
        self.messages.append(message)


def test_a_worker_executes_the_job_that_it_is_sent(tmp_path: Path, server: LocalServer) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"id": "a", "text": "A text."}))
    job = build_job([str(file)], prompts=["faq"], output=str(tmp_path), endpoints=[server.url], model="tiny")
    pipes = Pipes(job)
    work(cast(PipesContext, pipes))
    (message,) = pipes.messages
    assert message[DONE]["faq"]["completed"] == 1
    assert len(read_dataset(tmp_path / "faq")) == 1
