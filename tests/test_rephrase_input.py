"""Input rows: every row of every format is read and counted, or refused with file and row."""

from __future__ import annotations

import gzip
import json
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.rephrase import survey
from finephrase_dagster.rephrase.reader import InputReader, InputRow, InputUnreadable, check_files, rows_of
from finephrase_dagster.rephrase.survey import DuplicateId, NoRows, survey_input

LINES = [{"id": f"d{number}", "text": f"Text {number}, naïve."} for number in range(7)]


def jsonl(path: Path, rows: list[Any]) -> str:
    content = b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        half = content.index(b"\n", len(content) // 2) + 1
        packed = zstandard.ZstdCompressor()
        content = packed.compress(content[:half]) + packed.compress(content[half:])  # two frames
    path.write_bytes(content)
    return str(path)


def parquet(path: Path, **columns: pa.Array) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.jsonl.zst"])
def test_a_jsonl_file_yields_its_rows_however_it_is_compressed(tmp_path: Path, name: str) -> None:
    file = jsonl(tmp_path / name, LINES)
    assert list(rows_of(file)) == [InputRow(row["id"], row["text"], None) for row in LINES]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.binary(),
        pa.binary_view(),
    ],
)
def test_a_parquet_file_yields_its_rows_whatever_the_type_of_its_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(
        [row["text"].encode() if kind in (pa.binary(), pa.binary_view()) else row["text"] for row in LINES], kind
    )
    file = parquet(tmp_path / "in.parquet", id=pa.array([row["id"] for row in LINES]), text=texts)
    assert [row.text for row in rows_of(file)] == [row["text"] for row in LINES]


def test_a_whole_number_of_any_size_is_an_id_digit_by_digit(tmp_path: Path) -> None:
    number = 123456789012345678901234567890
    file = jsonl(tmp_path / "in.jsonl", [{"id": number, "text": "a"}, {"id": number + 1, "text": "b"}])
    assert [row.id for row in rows_of(file)] == [str(number), str(number + 1)]


def test_values_of_other_columns_that_only_a_lenient_parser_reads_cost_no_row(tmp_path: Path) -> None:
    lines = [
        b'{"id": "a", "text": "one", "score": NaN}\n',
        b'{"id": "b", "text": "two", "title": "half \\ud83d of a pair"}\n',
        b'{"id": "c", "text": "three", "title": "caf\xe9"}\n',
    ]
    rows = list(rows_of(jsonl(tmp_path / "in.jsonl", lines)))
    assert rows == [InputRow("a", "one", None), InputRow("b", "two", None), InputRow("c", "three", None)]


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    file = parquet(tmp_path / "in.parquet", id=pa.array([7, 8]), text=pa.array(["a", "b"]))
    assert [row.id for row in rows_of(file)] == ["7", "8"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "a"}, "text is missing"),
        ({"id": "a", "text": None}, "text is missing"),
        ({"id": "a", "text": ""}, "text is empty"),
        ({"id": "a", "text": " \n\t"}, "text is empty"),
        ({"id": "a", "text": 5}, "text is not a string (int)"),
        (b'{"id": "a", "text": "caf\xe9"}\n', "text is not UTF-8 (byte 0xE9 at character 3)"),
        (
            b'{"id": "a", "text": "half \\ud83d of a pair"}\n',
            "text is not UTF-8 (half of a surrogate pair at character 5)",
        ),
    ],
)
def test_a_row_without_text_is_kept_with_the_reason(tmp_path: Path, row: Any, reason: str) -> None:
    found, _ = rows_of(jsonl(tmp_path / "in.jsonl", [row, {"id": "b", "text": "b"}]))
    assert (found.id, found.text.strip(), found.skip) == ("a", "", reason)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "a"}, "row 3 has no id"),
        ({"id": " ", "text": "a"}, "row 3 has no id"),
        ({"id": 1.5, "text": "a"}, r"row 3 has the id '1.5' \(float\); an id is a string or a whole number"),
        ({"id": True, "text": "a"}, "row 3 has the id 'True'"),
        (b'{"id": "\\ud83d", "text": "a"}\n', "row 3 has an id that is not UTF-8"),
        (b"\x7fELF\x02\x01\x00\x9f\n", r"row 3 is not valid JSON \(the file is not a text file"),
        (b'{"id": "a", "text": "cut o\n', r"row 3 is not valid JSON \(.+\); write one JSON object per line"),
        (b"[1]\n", "row 3 is not a JSON object but a list; write one JSON object per line"),
    ],
)
def test_a_row_without_a_usable_id_is_refused_with_file_and_row(tmp_path: Path, row: Any, complaint: str) -> None:
    file = jsonl(tmp_path / "in.jsonl", [*LINES[:2], row])
    with pytest.raises(InputUnreadable, match=rf"in\.jsonl: {complaint}"):
        list(rows_of(file))


def test_blank_lines_and_carriage_returns_are_no_rows(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "in.jsonl", [b'{"id": "a", "text": "b"}\r\n', b"\r\n", b"\n", b'{"id": "c", "text": "d"}'])
    assert [row.id for row in rows_of(file)] == ["a", "c"]


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst", "in.parquet", "in.csv", "none.jsonl"])
def test_a_file_that_is_cut_off_or_not_what_its_name_says_is_refused(tmp_path: Path, name: str) -> None:
    if name != "none.jsonl":
        whole = jsonl(tmp_path / (name if name.endswith(("gz", "zst")) else "x.jsonl"), LINES)
        (tmp_path / name).write_bytes(Path(whole).read_bytes()[:-9])
    with pytest.raises(InputUnreadable, match=name.replace(".", r"\.")):
        list(rows_of(str(tmp_path / name)))


@pytest.mark.parametrize("limit", [None, 2])
def test_a_jsonl_file_none_of_whose_rows_has_a_text_is_refused_with_its_fields(
    tmp_path: Path, limit: int | None
) -> None:
    file = jsonl(tmp_path / "in.jsonl", [{"id": "a", "body": "b"}, {"id": "b", "body": "c"}, {"id": "c", "body": "d"}])
    with pytest.raises(
        InputUnreadable,
        match=r"in\.jsonl: no row has a field 'text'; its fields are body, id\. Name it with --text",
    ):
        survey_input([jsonl(tmp_path / "good.jsonl", LINES), file], limit and len(LINES) + limit)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"name": "x", "body": "b"},
            "row 1: no column 'id' and no column 'text'; its columns are body, name. Name the right one with "
            "--id-column and --text-column.",
        ),
        (
            {"ID": "x", "text": "b"},
            "row 1: no column 'id'; its columns are ID, text. Name the right one with --id-column, or give every row "
            "an id of its own.",
        ),
        (
            {"id": "x", "text": ["b"]},
            "'text' has no texts, but values of the type list. Name another column with --text-column.",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_with_other_columns_is_refused_with_all_that_must_be_named(
    tmp_path: Path, ending: str, row: dict[str, Any], message: str
) -> None:
    file = tmp_path / f"in.{ending}"
    if ending == "jsonl":
        jsonl(file, [row, row])
    else:
        pq.write_table(pa.Table.from_pylist([row, row]), file)
        message = message.removeprefix("row 1: ")
    with pytest.raises(InputUnreadable) as error:
        survey_input([str(file)])
    assert str(error.value).endswith(message)


def test_a_csv_file_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\na,One text.\n")
    with pytest.raises(InputUnreadable) as error:
        list(rows_of(str(tmp_path / "in.csv")))
    _, _, command = str(error.value).partition("for example: ")
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    assert [row.text for row in rows_of(str(tmp_path / "in.parquet"))] == ["One text."]


def test_a_jsonl_file_all_of_whose_texts_are_null_is_read(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": None}, {"id": "b"}])
    assert [row.skip for row in rows_of(file)] == ["text is missing", "text is missing"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("{folder}", r"is a folder; name its files, for example --input {folder}/\*\.jsonl"),
        ("{folder}/*.jsonl", "patterns are expanded by the shell only; remove the quotes, or name the files"),
        ("s3://bucket/part-?.parquet", "patterns are expanded by the shell only; .*name the files"),
        ("{folder}/in.csv", r"neither \.parquet nor \.jsonl"),
        ("s3://bucket/in.csv", r"neither \.parquet nor \.jsonl"),
        ("{folder}/none.jsonl", "no such file; correct the path"),
    ],
)
def test_input_that_cannot_be_read_is_refused_before_anything_is_opened(
    tmp_path: Path, name: str, complaint: str
) -> None:
    with pytest.raises(InputUnreadable, match=complaint.format(folder=tmp_path)):
        check_files([jsonl(tmp_path / "part[1].jsonl", LINES), name.format(folder=tmp_path)])


def test_a_parquet_file_without_a_column_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path / "in.parquet", id=pa.array(["a"]), body=pa.array(["b"]))
    with pytest.raises(
        InputUnreadable, match=r"no column 'text'; its columns are body, id\. Name the right one with --text-column\.$"
    ):
        list(rows_of(file))
    with pytest.raises(
        InputUnreadable, match=r"no column 'a' and no column 'text'.*with --id-column and --text-column"
    ):
        list(rows_of(file, columns=("a", "text")))


def test_the_example_for_a_folder_is_a_pattern_of_its_files(tmp_path: Path) -> None:
    parquet(tmp_path / "in.parquet", id=pa.array(["a"]))
    with pytest.raises(InputUnreadable, match=rf"is a folder; .* --input {tmp_path}/\*\.parquet$"):
        check_files([str(tmp_path)])


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["id", "text", "text"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputUnreadable, match="has the column 'text' more than once; rename or remove one of them"):
        list(rows_of(str(tmp_path / "in.parquet")))


def test_an_id_of_a_parquet_file_that_is_not_utf_8_is_refused_with_its_row(tmp_path: Path) -> None:
    ids = pa.array([b"a", b"\xe9"], pa.binary()).view(pa.string())
    file = parquet(tmp_path / "in.parquet", id=ids, text=pa.array(["a", "b"]))
    with pytest.raises(InputUnreadable, match="row 2 has an id that is not UTF-8"):
        list(rows_of(file))


def test_the_identity_depends_on_the_set_of_rows_alone(tmp_path: Path) -> None:
    rows = [*LINES, {"id": "none", "text": None}]
    shuffled = random.Random(0).sample(rows, len(rows))
    one = survey_input([jsonl(tmp_path / "one.jsonl", rows)])
    other = survey_input([jsonl(tmp_path / "a.jsonl.gz", shuffled[:3]), jsonl(tmp_path / "b.jsonl", shuffled[3:])])
    assert (one.digest, one.rows) == (other.digest, other.rows)
    changed = [{**rows[0], "text": "Text 0, naive."}, *rows[1:]]
    swapped = [{**rows[0], "text": rows[1]["text"]}, {**rows[1], "text": rows[0]["text"]}, *rows[2:]]
    for different in (rows[1:], changed, swapped, [*rows, {"id": "more", "text": "more"}]):
        assert survey_input([jsonl(tmp_path / "other.jsonl", different)]).digest != one.digest


def test_a_limit_counts_rows_of_all_files_from_the_first(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / "a.jsonl", LINES[:3]), jsonl(tmp_path / "b.jsonl", LINES[3:])]
    limited = survey_input(files, 5)
    assert limited.rows == 5
    assert limited.digest == survey_input([jsonl(tmp_path / "c.jsonl", LINES[:5])]).digest
    assert [document.id for document in InputReader(files, 5).run()] == ["d0", "d1", "d2", "d3", "d4"]


def test_a_repeated_id_is_named(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / "a.jsonl", LINES), jsonl(tmp_path / "b.jsonl", [{"id": "d3", "text": "other"}])]
    with pytest.raises(DuplicateId, match=r"/a\.jsonl and \S+/b\.jsonl: more than one row has the id 'd3'"):
        survey_input([jsonl(tmp_path / "c.jsonl", [{"id": "c", "text": "c"}]), *files])


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoRows, match=r"empty\.jsonl: no rows"):
        survey_input([jsonl(tmp_path / "empty.jsonl", [])])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=40, unique=True), st.integers(0, 40))
def test_a_set_of_ids_contains_exactly_the_added_ids(ids: list[str], some: int) -> None:
    held = IdSet([id_hash(name) for name in ids[:some]])
    assert len(held) == len(ids[:some])
    assert [id_hash(name) in held for name in ids] == [place < some for place in range(len(ids))]
    assert [held.add(id_hash(name)) for name in ids] == [place >= some for place in range(len(ids))]
    assert len(held) == len(ids)


def test_a_growing_set_of_ids_keeps_all_ids() -> None:
    held = IdSet()
    assert all(held.add(id_hash(f"d{number}")) for number in range(60_000))
    assert len(held) == 60_000
    assert not any(held.add(id_hash(f"d{number}")) for number in range(60_000))
    assert not any(id_hash(f"e{number}") in held for number in range(60_000))


def test_a_long_survey_of_the_input_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "NOTICE_SECONDS", 0.0)
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    for name in files:
        Path(name).write_text("".join(f'{{"id": "{name}-{row}", "text": "t"}}\n' for row in range(1500)))
    lines: list[str] = []
    survey.survey_input(files, log=lines.append)
    assert lines == [f"reading the input before the first request: {rows:,} rows so far" for rows in (1000, 2500)]
