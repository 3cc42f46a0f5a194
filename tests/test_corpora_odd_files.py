"""Odd files: every reader takes the same ids and rows of them, or names the file, the row and a remedy."""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from corpora_parts import documents, files, read, reasons
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.kinds.hub import HubSource
from finephrase_dagster.corpora.rows import read_rows
from finephrase_dagster.corpora.shards import write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.reader import check_files, rows_of

Pairs = list[tuple[str, str]]
WHOLE = st.one_of(st.integers(), st.integers(min_value=-(10**60), max_value=10**60))
OTHER = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), WHOLE, st.text(st.characters(), max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


def rephrased(path: Path) -> Pairs:
    check_files([str(path)])
    return [(row.id, row.text) for row in rows_of(str(path)) if row.skip is None]


def of_files(path: Path) -> Pairs:
    return [(row.id, row.text) for row in documents(read(files(path)))]


def of_hub(path: Path) -> Pairs:
    fields = {"kind": "hub", "dataset": str(path.parent), "revision": "main", "id_column": "id", "files": [path.name]}
    return [(row.id, row.text) for row in documents(read(HubSource.model_validate(fields)))]


READERS = pytest.mark.parametrize("pairs", [rephrased, of_files, of_hub])
Reader = Callable[[Path], Pairs]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@READERS
def test_ids_are_strings_and_whole_numbers_as_they_are_in_the_file(tmp_path: Path, pairs: Reader) -> None:
    ids = ["007", "NA", "2024-03-01T10:00:00Z", "true", 7, 10**30 + 1, -(10**400), 2**64 - 1]
    path = lines(tmp_path / "rows.jsonl", *({"id": name, "text": "t"} for name in ids))
    assert [name for name, _ in pairs(path)] == [str(name) for name in ids]
    long = "9" * 5_000
    assert pairs(lines(path, f'{{"id": {long}, "text": "t"}}')) == [(long, "t")]


@READERS
@pytest.mark.parametrize("value", ["true", "1.5", "1e3", "NaN", "[1]", "{}"])
def test_an_id_of_another_kind_is_refused_with_file_and_row(tmp_path: Path, pairs: Reader, value: str) -> None:
    path = lines(tmp_path / "rows.jsonl", {"id": "a", "text": "t"}, f'{{"id": {value}, "text": "t"}}')
    with pytest.raises(FinephraseError, match=r"rows.jsonl: row 2 has the id .+; an id is a string or a whole number"):
        pairs(path)


@READERS
def test_a_parquet_file_has_exact_ids_or_names_their_type(tmp_path: Path, pairs: Reader) -> None:
    path, number = tmp_path / "rows.parquet", uuid.UUID(int=5)
    exact = {
        str(10**37): pa.array([decimal.Decimal(10**37)], pa.decimal128(38, 0)),
        str(2**64 - 1): pa.array([2**64 - 1], pa.uint64()),
        "x": pa.array(["x"], pa.string_view()),
        str(number): pa.array([number.bytes], pa.binary(16)).cast(pa.uuid()),
    }
    for name, column in exact.items():
        pq.write_table(pa.table({"id": column, "text": ["t"]}), path)
        assert pairs(path) == [(name, "t")]
    for column in (
        pa.array([1.0]),
        pa.array([True]),
        pa.array([b"x"]),
        pa.array([dt.datetime(2024, 1, 1)]),
        pa.array([decimal.Decimal("1.50")]),
        pa.array([[1]]),
    ):
        pq.write_table(pa.table({"id": column, "text": ["t"]}), path)
        with pytest.raises(FinephraseError, match=r"rows.parquet: row 1 has an id of the type") as refused:
            pairs(path)
        assert str(column.type).partition("<")[0] in str(refused.value)


@given(rows=st.lists(st.tuples(st.one_of(st.text(min_size=1), WHOLE), st.text(), OTHER), min_size=1, max_size=6))
@pytest.mark.slow
def test_all_readers_take_the_same_documents(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    known: dict[str, str] = {}
    for name, text, _ in rows:
        if str(name).strip():
            known.setdefault(str(name), text)
    others = {str(name): other for name, _, other in rows}
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    content = [{"id": name, "text": text, "other": others[name]} for name, text in known.items()]
    path.write_bytes("".join(json.dumps(row) + "\n" for row in content).encode())
    wanted = [(name, text) for name, text in known.items() if text and not text.isspace()]
    assert rephrased(path) == wanted if known else True
    assert of_files(path) == wanted


TEXTS = st.lists(st.text('a \n\\":é', min_size=1).filter(str.strip), min_size=2)


@given(values=TEXTS, extra=st.sampled_from(["1", "NaN"]))
def test_the_last_value_of_a_repeated_key_counts_whichever_parser_reads_it(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], extra: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    pairs = [f'"id": "a", "score": {extra}', *(f'"text": {json.dumps(value)}' for value in values)]
    path.write_text("{" + ", ".join(pairs) + "}\n")
    assert of_files(path) == rephrased(path) == [("a", values[-1])]


@READERS
def test_a_row_is_not_lost_because_of_another_column_or_row(tmp_path: Path, pairs: Reader) -> None:
    path = lines(
        tmp_path / "rows.jsonl",
        {"id": "z", "body": "no text"},
        '{"id": "a", "text": "one", "score": NaN, "day": "2024-01-01"}',
        '{"id": "b", "text": "1969-07-20", "title": "half \\ud83d", "score": "none"}',
        {"id": "c", "text": ["a", "list"]},
        {"id": "d", "text": 'with "quotes"', "meta": {"n": 10**30}},
    )
    assert pairs(path) == [("a", "one"), ("b", "1969-07-20"), ("d", 'with "quotes"')]


@READERS
@pytest.mark.parametrize(
    ("name", "content", "flaw"),
    [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        ("a.jsonl", gzip.compress(b'{"id": "a", "text": "t"}\n'), r"compressed with gzip; end its name with \.gz"),
        ("a.jsonl", zstandard.compress(b'{"id": "a", "text": "t"}\n'), "end its name with .zst"),
        ("a.jsonl", b"\n <!DOCTYPE html><html>404</html>\n", "is a web page"),
        ("a.jsonl.gz", b"<html>404</html>\n", "is a web page"),
        ("a.jsonl.gz", b'{"id": "a"}\n', "does not begin like a file with the ending of its name"),
        ("a.jsonl", '{"id": "a", "text": "t"}\n'.encode("utf-16"), "row 1 .*UTF-16"),
        ("a.jsonl", b"# a comment\nmore\n", "row 1 is not valid JSON .*rite one JSON object per line"),
        ("a.jsonl", b'[{"id": "a", "text": "t"}]\n', "row 1 is not a JSON object but a list"),
        ("a.jsonl", b'{"id": "a", "text": "t"}\n\xef\xbb\xbf{"id": "b", "text": "t"}\n', "row 2 begins with a byte"),
        ("a.jsonl.gz", gzip.compress(b'{"id": "a", "text": "t"}\n') + b"garbage!", r"pack it again with `gzip -dc"),
        ("a.jsonl.gz", gzip.compress(b'{"id": "a", "text": "t"}\n' * 99)[:-9], "replace the file"),
        ("a.jsonl.zst", zstandard.compress(os.urandom(999))[:-9], "replace the file"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_named(
    tmp_path: Path, pairs: Reader, name: str, content: bytes, flaw: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FinephraseError, match=rf"{name}: .*{flaw}") as refused:
        pairs(tmp_path / name)
    assert "run again" not in str(refused.value)


@READERS
def test_a_long_window_is_refused_with_a_command_and_a_skippable_frame_is_skipped(
    tmp_path: Path, pairs: Reader
) -> None:
    path, content = tmp_path / "rows.jsonl.zst", b'{"id": "a", "text": "t"}\n'
    window = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=window).compressobj()
    path.write_bytes(stream.compress(content) + stream.flush())
    with pytest.raises(FinephraseError, match=r"pack it again with `zstd -d --long=31"):
        pairs(path)
    path.write_bytes(b"\x55\x2a\x4d\x18\x03\x00\x00\x00xyz" + zstandard.compress(content))
    assert pairs(path) == [("a", "t")]


def test_a_pipe_is_refused_because_input_is_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(FinephraseError, match="write it to a file first"):
        rephrased(tmp_path / "pipe.jsonl")
    with pytest.raises(FinephraseError, match="write it to a file first"):
        list(read_rows(str(tmp_path / "pipe.jsonl")))


def test_dropped_rows_are_reported_by_cause_with_the_first_example(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {"id": "a", "text": "t"}, {"id": "b"}, "{", {"id": "c", "text": None})
    log: list[str] = []
    (tmp_path / "corpus").mkdir()
    reader = read_source(files(path), "mine", requirements=Path("none"))
    facts = write_corpus(reader, tmp_path / "corpus", shard_documents=10, log=log.append)
    assert facts.tally.dropped == {"text is missing": 2, "not valid JSON": 1}
    assert "source mine: 1 documents; rows dropped: 1 x not valid JSON (first: " in log[-1]
    assert f"2 x text is missing (first: {path}: row 2)" in log[-1]


@pytest.mark.slow
def test_a_small_parquet_file_with_a_repeated_large_text_is_read_in_little_memory(tmp_path: Path) -> None:
    path, text = tmp_path / "rows.parquet", "x" * (4 << 20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 900, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"id": pa.array(range(900)), "text": column}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    before = pa.total_allocated_bytes()
    most = 0
    for number, row in enumerate(read_rows(str(path), columns=("id", "text"), id_column="id")):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len((row.values or {})["text"]) == len(text)
        if number == 100:
            break
    assert most < 1 << 30


def test_a_small_parquet_file_whose_page_is_huge_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finephrase_dagster.corpora.parquet._LARGEST_PACKED", 1 << 20)
    path, word = tmp_path / "rows.parquet", "word " * 200_000
    table = pa.table({"id": range(20), "text": [word] * 20})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    with pytest.raises(
        CorpusError, match=r"rows.parquet: column 'text' has 20,\d+,\d+ bytes, packed into \d,\d+, which"
    ):
        read(files(path))
    several = [" and ".join(str(number * step) for step in range(10_000)) for number in range(1, 21)]
    pq.write_table(pa.table({"id": range(20), "text": several}), path, compression="zstd", use_dictionary=False)
    assert [row.text for row in documents(read(files(path)))] == several


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finephrase_dagster.corpora.jsonl.LONGEST_LINE", 1 << 20)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a", "text": "t"}\n' + b" " * (3 << 20)))
    with pytest.raises(CorpusError, match=r"rows.jsonl.gz: row 2 is longer than 1 MiB; leave it out"):
        read(files(path))


def test_texts_that_are_no_strings_are_dropped_alone(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {"id": 1, "text": 404}, {"id": 2, "text": "t"}, {"id": 3, "text": {"a": 1}})
    rows = read(files(path))
    assert [row.text for row in documents(rows)] == ["t"]
    assert reasons(rows) == ["text is not a string"] * 2
