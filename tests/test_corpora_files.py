"""Parquet and JSONL files: every row becomes a document or is counted, whatever is wrong with it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from corpora_parts import blank_column, documents, files, read, reasons
from finephrase_dagster.artifacts.fingerprint import sha256_text
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.kinds.files import FilesSource
from finephrase_dagster.corpora.source import read_source

ROWS = [
    b'{"id": "a", "text": "first"}',
    b"",
    b'{"id": "b", "text": "  \\n"}',
    b'{"id": "c", "text": null}',
    b'{"id": "d", "text": 4}',
    b'{"id": "e", "text": "cut off',
    b'{"id": "f", "text": "\xff\xfe"}',
    b'{"id": "g", "text": "\\ud800"}',
    b'["not", "an object"]',
    b'{"id": "h"}',
    b'{"id": 7, "text": "Gr\xc3\xbc\xc3\x9fe", "media": "a column of its own"}',
]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_every_line_of_a_jsonl_file_is_kept_or_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    data = b"\n".join(ROWS) + b"\n"
    pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[ending]
    path.write_bytes(pack(data))
    rows = read(files(path))
    assert [(row.id, row.text) for row in documents(rows)] == [("a", "first"), ("7", "Grüße")]
    assert len(rows) == len(ROWS)
    assert sorted(reasons(rows)) == [
        "blank line", "not a JSON object", "not valid JSON", "text is empty", "text is missing", "text is missing",
        "text is not UTF-8", "text is not UTF-8", "text is not a string",
    ]  # fmt: skip


def test_every_row_of_a_parquet_file_is_kept_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"key": [1, 2, 3, 4], "body": ["one", "", None, "four"], "other": [0, 0, 0, 0]})
    pq.write_table(table, path)
    source = FilesSource(kind="files", paths=(str(path),), text_column="body", id_column="key")
    rows = read(source)
    assert [(row.id, row.text) for row in documents(rows)] == [("1", "one"), ("4", "four")]
    assert reasons(rows) == ["text is empty", "text is missing"]


def test_without_an_id_column_the_id_is_the_texts_hash_and_repetitions_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", "two", "one"]}), path)
    rows = read(files(path, id_column=None))
    assert [row.text for row in documents(rows)] == ["one", "two"]
    assert all(sha256_text(row.text).startswith(row.id) for row in documents(rows))
    assert reasons(rows) == ["repeated text"]


def test_files_are_read_sorted_and_each_once(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": name}))
    rows = read(files(tmp_path / "c.jsonl", tmp_path / "*.jsonl"))
    assert [row.id for row in documents(rows)] == ["a", "b", "c"]


def test_a_duplicate_id_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n')
    with pytest.raises(
        CorpusError, match=r"source tried: .*rows.jsonl, row 1, and .*rows.jsonl, row 2: the id 'x' app"
    ):
        read(files(path))


@pytest.mark.parametrize(("value", "shown"), [("1.5", "1.5"), ("true", "True"), ("[1]", "[1]")])
def test_an_id_that_is_neither_string_nor_whole_number_is_refused(tmp_path: Path, value: str, shown: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": {value}, "text": "a"}}\n')
    message = re.escape(f"rows.jsonl: row 1 has the id {shown!r}") + r".*; an id is a string or a whole number"
    with pytest.raises(CorpusError, match=message):
        read(files(path))


def test_a_missing_id_is_refused_with_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "x", "text": "a"}\n{"id": null, "text": "b"}\n')
    with pytest.raises(CorpusError, match=r"rows.jsonl: row 2 has no id in column 'id'"):
        read(files(path))


def test_a_jsonl_file_with_another_name_for_the_id_is_refused_with_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ID": "x", "text": "a"}\n')
    message = "no column 'id'; its columns are ID, text. Name the right one in its section of the study file"
    with pytest.raises(CorpusError, match=message):
        read(files(path))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    if ending == ".jsonl":
        path.write_text('{"body": "a", "id": "x"}\n')
    else:
        pq.write_table(pa.table({"body": ["a"], "id": ["x"]}), path)
    with pytest.raises(CorpusError, match=rf"rows\{ending}: no column 'text'; its columns are body, id"):
        read(files(path))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nothing-\*.jsonl: no such file"):
        read(files(tmp_path / "nothing-*.jsonl"))
    (tmp_path / "table.csv").write_text("id,text\n")
    with pytest.raises(CorpusError, match=r"table.csv: none of .parquet, "):
        read(files(tmp_path / "table.csv"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorpusError, match=r"cut.parquet: cannot be read"):
        read(files(tmp_path / "cut.parquet"))
    lines = b"".join(b'{"id": "%d", "text": "b"}\n' % number for number in range(500))
    for name, packed in (("cut.jsonl.gz", gzip.compress(lines)), ("cut.jsonl.zst", zstandard.compress(lines))):
        (tmp_path / name).write_bytes(packed[:-20])
        with pytest.raises(CorpusError, match=rf"{name}: cannot be read \(.+\)"):
            read(files(tmp_path / name))


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_a_compressed_file_of_several_frames_is_read_to_its_end(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"rows.jsonl.{ending}"
    path.write_bytes(b"".join(pack(b'{"id": "%d", "text": "b"}\n' % number) for number in range(5)))
    assert [row.id for row in documents(read(files(path)))] == list("01234")


def test_a_text_that_is_not_utf_8_costs_its_own_row_alone(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"\xff\xfe", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": texts}), tmp_path / "rows.parquet")
    rows = read(files(tmp_path / "rows.parquet"))
    assert [row.text for row in documents(rows)] == ["one", "three"]
    assert reasons(rows) == ["text is not UTF-8"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_a_text_may_be_of_any_kind_that_holds_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array([b"one", b"two"] if kind == pa.binary() else ["one", "two"], kind)
    pq.write_table(pa.table({"id": [1, 2], "text": texts}), tmp_path / "rows.parquet")
    assert [row.text for row in documents(read(files(tmp_path / "rows.parquet")))] == ["one", "two"]


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": ["one " * 50] * 40, "id": [str(row) for row in range(40)], "other": ["o" * 100] * 40})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    blank_column(path, group=0, column=2)
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(path)
    assert len(documents(read(files(path)))) == 40


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_several_text_columns_are_joined_and_the_empty_left_out(tmp_path: Path, ending: str) -> None:
    rows = [
        {"id": "a", "title": "Rivers", "body": "They flow."},
        {"id": "b", "title": "", "body": "No title."},
        {"id": "c", "title": None, "body": None},
        {"id": "d", "title": " ", "body": ""},
    ]
    path = tmp_path / f"rows{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(files(path, text_column=("title", "body")))
    assert [row.text for row in documents(found)] == ["Rivers\n\nThey flow.", "No title."]
    assert sorted(reasons(found)) == ["text is empty", "text is missing"]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_column_may_be_nested_or_have_a_dot_in_its_name(tmp_path: Path, ending: str) -> None:
    rows = [
        {"key.id": f"k{row}", "content": {"text": f"Text {row}.", "size": {"tokens": 10 + row}}} for row in range(4)
    ]
    path = tmp_path / f"rows{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = files(
        path,
        id_column="key.id",
        text_column="content.text",
        token_column="content.size.tokens",
        keep={"content.size.tokens": {"min": 11}},
    )
    found = documents(read(source))
    assert [(row.id, row.text, row.tokens) for row in found] == [(f"k{n}", f"Text {n}.", 10 + n) for n in (1, 2, 3)]
    for column in ("content.nothing", "nothing.text", "content.text.deeper"):
        with pytest.raises(CorpusError, match=rf"no column '{column}'; its columns are content, key.id"):
            read(source.model_copy(update={"text_column": column}))


def test_row_groups_that_lie_behind_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    table = pa.table({"id": [str(row) for row in range(30)], "text": [f"text {row} " * 20 for row in range(30)]})
    pq.write_table(table, path, row_group_size=10, **write_options)
    rows = read(files(path))
    blank_column(path, group=0, column=1)
    reader = read_source(files(path), "tried", requirements=tmp_path)
    for behind in (10, 15, 29, 30):
        assert list(reader.rows({"file": 0, "row": behind})) == rows[behind:]
    with pytest.raises(CorpusError, match=r"rows.parquet: cannot be read"):
        list(reader.rows({"file": 0, "row": 9}))
