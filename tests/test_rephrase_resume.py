"""Resuming reads neither the input nor the dataset again: places in the input tell what is done."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from finephrase_dagster.commands.main import app
from finephrase_dagster.corpora import column
from finephrase_dagster.corpora.ids import RepeatedIds
from finephrase_dagster.rephrase import chunks, job, reader
from finephrase_dagster.rephrase.dataset import read_dataset
from finephrase_dagster.rephrase.done import DoneRows, stretches_of
from finephrase_dagster.rephrase.reader import InputReader, rows_of
from finephrase_dagster.rephrase.survey import Survey, survey_input
from rephrase_parts import LocalServer, completion, documents, failure, local_server, shorten_pauses

ROWS = 30


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        yield one


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps({"id": name, "text": text}) for name, text in documents(ROWS)))
    return path


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MARK_ROWS", 4)
    monkeypatch.setattr(reader, "FEWEST_PASSED", 4)
    shorten_pauses(monkeypatch)


def rephrase(source: Path, server: LocalServer, *options: str) -> tuple[int, str]:
    arguments = ["--input", str(source), "--prompt", "faq", "--output", str(source.parent / "out"), "--chunk-rows", "5"]
    arguments += ["--endpoint", server.url, "--model", "tiny", *options]
    result = CliRunner().invoke(app, ["rephrase", *arguments])
    return result.exit_code, result.stderr


def interrupt(source: Path, server: LocalServer, after: int) -> None:
    """Rephrase some rows, and stop as if the key had expired."""
    server.answer = lambda request: completion() if len(server.requests) <= after else failure(401, "expired")
    assert rephrase(source, server, "--concurrency", "1")[0] == 1
    server.requests.clear()
    server.answer = lambda request: completion()


def never(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("is not to be called")


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the ids of the input rows that are read."""
    read: list[str] = []

    def watched(*arguments: Any, **options: Any) -> Iterator[reader.InputRow]:
        for row in rows_of(*arguments, **options):
            read.append(row.id)
            yield row

    monkeypatch.setattr(reader, "rows_of", watched)
    return read


@pytest.mark.slow
def test_a_resumed_run_reads_neither_the_rows_that_are_done_nor_the_files_that_it_wrote(
    source: Path, server: LocalServer, rows_read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(source, server, after=20)
    rows_read.clear()
    monkeypatch.setattr(job, "survey_input", never)
    monkeypatch.setattr(chunks.PublishedChunks, "ids", never)
    assert rephrase(source, server) == (0, "")
    assert len(server.requests) == ROWS - 20
    assert len(rows_read) < ROWS - 20 + 3 * 5  # those that are missing, the example, and some around them
    assert Counter(read_dataset(source.parent / "out" / "faq").table()["id"].to_pylist()) == Counter(
        f"doc-{n}" for n in range(ROWS)
    )


def test_a_finished_dataset_is_not_read_to_answer(
    source: Path, server: LocalServer, rows_read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rephrase(source, server) == (0, "")
    rows_read.clear()
    monkeypatch.setattr(job, "survey_input", never)
    status, said = rephrase(source, server)
    assert (status, said.count("\n")) == (0, 1)
    assert said.endswith("everything was complete already; nothing was sent\n")
    assert rows_read == []


def test_an_edit_of_the_input_is_noticed_although_size_and_time_stay(source: Path, server: LocalServer) -> None:
    assert rephrase(source, server) == (0, "")
    times, content = source.stat(), source.read_bytes()
    with source.open("r+b") as file:
        file.write(content.replace(b"Document 7.", b"Document 8."))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    status, message = rephrase(source, server)
    assert status == 2
    assert "holds rows of another recipe: rows:" in message


@pytest.mark.slow
def test_a_copy_of_the_input_is_the_same_input(source: Path, server: LocalServer) -> None:
    interrupt(source, server, after=20)
    copy = source.with_name("copy.jsonl")
    copy.write_bytes(source.read_bytes())
    os.utime(copy)
    assert rephrase(copy, server) == (0, "")
    assert len(server.requests) == ROWS - 20


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reversed", "other", "back"])
def test_rows_in_another_order_are_recognized_by_their_ids(source: Path, server: LocalServer, order: str) -> None:
    interrupt(source, server, after=10)
    lines = source.read_text().split("\n")
    source.write_text("\n".join(lines[::-1] if order != "other" else lines[7:] + lines[:7]))
    if order == "back":
        interrupt(source, server, after=10)
        source.write_text("\n".join(lines))
    assert rephrase(source, server) == (0, "")
    assert len(server.requests) == ROWS - (20 if order == "back" else 10)
    assert len(set(read_dataset(source.parent / "out" / "faq").table()["id"].to_pylist())) == ROWS


def test_failed_rows_are_sent_again_without_reading_what_was_completed(
    source: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ("Document 11.", "Document 12.", "Document 21.")
    server.answer = lambda request: (
        failure(400, "refused") if any(one in str(request["messages"]) for one in broken) else completion()
    )
    assert rephrase(source, server) == (0, "")
    assert read_dataset(source.parent / "out" / "faq").manifest["failed"] == 3
    server.requests.clear()
    server.answer = lambda request: completion()
    monkeypatch.setattr(chunks.PublishedChunks, "ids", never)
    assert rephrase(source, server, "--retry-failed")[0] == 0
    assert len(server.requests) == 3
    assert read_dataset(source.parent / "out" / "faq").manifest["completed"] == ROWS


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.jsonl.zst", "in.parquet"])
def test_reading_begins_at_any_row(tmp_path: Path, name: str) -> None:
    rows = [{"id": f"row {n}", "text": f"text {'é' * (n % 7)}"} for n in range(30)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        content = "\ufeff\n" + "".join(json.dumps(row) + "\r\n" + "\n" * (n % 3) for n, row in enumerate(rows))
        compress: Callable[[bytes], bytes] = {"gz": gzip.compress, "zst": zstandard.compress}.get(
            name.rpartition(".")[2], bytes
        )
        path.write_bytes(compress(content.encode()))
    [surveyed] = survey_input([str(path)]).surveyed
    assert surveyed.rows == 30
    everything = list(rows_of(str(path)))
    for start in range(31):
        assert list(rows_of(str(path), start=start, marks=surveyed.marks)) == everything[start:]
        assert list(rows_of(str(path), 20, start=start, marks=surveyed.marks)) == everything[start:20]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 60)), max_size=5), st.sets(st.integers(0, 60)))
def test_what_is_done_is_what_was_added(groups: list[set[int]], named: set[int]) -> None:
    done = DoneRows()
    for group in groups:
        done.add(3, stretches_of(group))
    if named:
        done.add_ids(str(row) for row in named)
    placed = set().union(*groups)
    for row in range(62):
        assert done.has(3, row, str(row)) == (row in placed | named)
        assert done.next_missing(3, row) == next(one for one in range(row, 99) if one not in placed)
        assert done.next_missing(4, row) == row


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 40)), st.integers(1, 12))
def test_the_reader_yields_what_is_needed_and_counts_the_rest(missing: set[int], first: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, rows in enumerate((range(first), range(first, 41))):
            path = Path(folder) / f"{number}.jsonl"
            path.write_text("".join(f'{{"id": "{row}", "text": "x"}}\n' for row in rows))
            files.append((str(path), list(rows)))
        survey = survey_input([path for path, _ in files])
        done = DoneRows()
        for shard, (_, rows) in enumerate(files):
            done.add(shard, stretches_of(place for place, row in enumerate(rows) if row not in missing))
        documents = InputReader(survey.files, None, survey.surveyed).run()
        documents.next_needed = done.next_missing
        read = [int(document.id) for document in documents]
    assert read == sorted(read)
    assert missing <= set(read)
    assert len(read) + documents.passed == 41


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=2), max_size=40), st.integers(1, 8))
def test_repeated_ids_are_found(names: Sequence[str], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(column, "SORTED_AT_ONCE", at_once)
        patch.setattr(column, "_KEPT", 3)
        repeated = RepeatedIds()
        for name in names:
            repeated.add([name])
        assert set(repeated.find(names)) == {name for name, count in Counter(names).items() if count > 1}


def test_a_survey_of_other_files_or_another_limit_is_not_used(source: Path, tmp_path: Path) -> None:
    from finephrase_dagster.artifacts.folder import LocalFolder
    from finephrase_dagster.rephrase.survey import saved_survey

    folder = LocalFolder(tmp_path / "out")
    survey = survey_input([str(source)], 10)
    survey.save(folder)
    saved = saved_survey(folder, [str(source)], 10)
    assert isinstance(saved, Survey)
    assert (saved.digest, saved.layout) == (survey.digest, survey.layout)
    assert saved_survey(folder, [str(source)], 11) is None
    assert saved_survey(folder, [str(source), str(source)], 10) is None
    (tmp_path / "out" / "__meta__" / "input.json").write_text("{")
    assert saved_survey(folder, [str(source)], 10) is None
