"""What an audit reads: files of every kind, sources by id, rows in any number of processes."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.audit.audit import Audit, AuditReport, audit_dataset, resolve_settings
from finephrase_dagster.audit.dataset import AuditError, open_dataset, open_sources
from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.audit.shared_words import share_words
from finephrase_dagster.audit.source_texts import IndexedSources, OrderedSources, join_sources
from finephrase_dagster.audit.span import divide
from finephrase_dagster.audit.words import split_words
from finephrase_dagster.corpora.ids import short_hash
from finephrase_dagster.study.catalogue import complete_gates, settings_for

WORDS = ["river", "stone", "cloud", "garden", "winter", "music", "letter", "engine", "harbour", "candle", "meadow"]


def texts(count: int, *, empty: int = 0) -> list[str]:
    draw = random.Random(7)
    rows = [f"{' '.join(draw.choices(WORDS, k=30))} {index}." for index in range(count)]
    return ["" if index < empty else row for index, row in enumerate(rows)]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(lines))
    else:
        path.write_bytes(lines)
    return path


def values(report: AuditReport) -> dict[str, Any]:
    return {gate.name: (gate.value, gate.failing, gate.detail, gate.examples) for gate in report.gates}


def test_a_gate_that_a_single_row_of_a_small_sample_fails_says_so(tmp_path: Path) -> None:
    def failed(rows: int) -> str:
        texts_of = ["I'm sorry, but I cannot help with that.", *texts(rows - 1)]
        path = write_rows(tmp_path / f"{rows}.jsonl", [{"text": text} for text in texts_of])
        return failed_gates(audit_dataset(path, processes=1).as_json())["refusals"]

    assert failed(32) == "refusals is 0.0312 (1 of 32 rows; of so few, none may fail), required is at most 0.01"
    path = tmp_path / "32.jsonl"
    assert "refusals" not in failed_gates(audit_dataset(path, settings={"refusals": 0.05}, processes=1).as_json())
    with Audit(path, processes=1, drops=["refusals"]) as audit:
        assert failed_gates(audit.report.as_json(), blocking=False)["refusals"] == "refusals left out 1 of 32 rows"


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_files_of_every_kind_have_the_same_audit(tmp_path: Path, ending: str) -> None:
    rows = [{"id": f"r{index}", "text": text} for index, text in enumerate(texts(50, empty=3))]
    report = audit_dataset(write_rows(tmp_path / f"rows.{ending}", rows))
    assert report.rows == 50
    assert values(report)["empty"][:2] == (0.06, 3)
    assert [row.id for row in next(gate for gate in report.gates if gate.name == "empty").examples] == [
        "r0",
        "r1",
        "r2",
    ]


def test_without_ids_a_row_has_its_number(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "a.jsonl", [{"text": "Here."}, {"text": ""}])
    two = write_rows(tmp_path / "b.parquet", [{"text": ""}, {"text": "There."}])
    report = audit_dataset(one)
    assert [row.id for row in next(gate for gate in report.gates if gate.name == "empty").examples] == ["2"]
    report = audit_dataset([one, two])
    assert [row.id for row in next(gate for gate in report.gates if gate.name == "empty").examples] == [
        f"{one}:2",
        f"{two}:1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_several_processes_find_what_one_finds(tmp_path: Path, ending: str) -> None:
    rows = [
        {"id": f"r{index}", "text": text, "source_text": f"{text} More of it."}
        for index, text in enumerate([*texts(400), "", *["The same beginning of it all."] * 30])
    ]
    files = [
        write_rows(tmp_path / f"{start}.{ending}", rows[start:end]) for start, end in ((0, 300), (300, 301), (301, 431))
    ]
    alone, together = audit_dataset(files, processes=1), audit_dataset(files, processes=3)
    assert values(together) == values(alone)
    assert together.rows == alone.rows == 431


@given(
    cuts=st.integers(1, 9),
    lines=st.lists(st.sampled_from(["", " ", '{"text": "a"}', '{"text": "\\u00e9b"}']), max_size=40),
)
def test_every_row_is_in_exactly_one_part(
    tmp_path_factory: pytest.TempPathFactory, cuts: int, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "a.jsonl").write_text("\n".join(['{"text": "first"}', *lines]))
    table = pa.table({"text": [f"{index}" for index in range(len(lines) + 1)]})
    pq.write_table(table, folder / "b.parquet", row_group_size=7)
    dataset = open_dataset([folder / "a.jsonl", folder / "b.parquet"], check=None)
    whole = [row.id for span in dataset.files for row in span.rows()]
    parts = divide(dataset.files, cuts)
    assert [row.id for part in parts for span in part for row in span.rows()] == whole
    assert len(parts) <= cuts


def sourced(folder: Path, ids: Sequence[str], source_ids: Sequence[str], parts: int = 2) -> list[list[str | None]]:
    rows = write_rows(folder / "rows.parquet", [{"id": name, "text": f"about {name}"} for name in ids])
    source = write_rows(folder / "source.jsonl", [{"id": name, "text": f"source of {name}"} for name in source_ids])
    divided = divide(open_dataset([rows], check=None).files, parts)
    (folder / "index").mkdir()
    sources = join_sources([source], divided, folder / "index")
    kind = OrderedSources if set(ids) <= set(source_ids) and sorted(ids) == list(ids) else IndexedSources
    assert all(isinstance(one, kind) for one in sources)
    return [
        one.lookup()([name for span in part for name, _ in span.ids()])
        for part, one in zip(divided, sources, strict=True)
    ]


@given(data=st.data(), count=st.integers(1, 30))
@pytest.mark.slow
def test_sources_are_joined_by_id_in_whatever_order_they_are(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int
) -> None:
    names = [f"{index:03}" for index in range(count)]
    ids = data.draw(st.one_of(st.permutations(names), st.just(names)))[: data.draw(st.integers(1, count))]
    kept = data.draw(st.one_of(st.just(names), st.lists(st.sampled_from(names), unique=True, min_size=1).map(sorted)))
    found = sourced(tmp_path_factory.mktemp("join"), ids, kept)
    expected = [f"source of {name}" if name in kept else None for name in ids]
    assert [text for part in found for text in part] == expected


def test_rows_without_a_source_are_counted(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"id": f"r{n}", "text": text} for n, text in enumerate(texts(9))])
    source = write_rows(tmp_path / "source.jsonl", [{"id": f"r{n}", "text": "Source."} for n in (5, 3, 1)])
    assert audit_dataset(rows, source=source).without_source == 6
    other = write_rows(tmp_path / "other.jsonl", [{"id": "x", "text": "Source."}])
    with pytest.raises(AuditError, match="has none of the ids of the rows"):
        audit_dataset(rows, source=other)
    nameless = write_rows(tmp_path / "nameless.jsonl", [{"text": "Source."}])
    with pytest.raises(AuditError, match=r"--source .*nameless.jsonl: no column 'id'"):
        open_sources([nameless])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "a"}\n{"text": \n', r"rows.jsonl: row 2 is not valid JSON"),
        ("\n \n", r"rows.jsonl: has no rows to audit"),
        ('{"body": "a"}\n', r"no column 'text'; its columns are body"),
        ('{"text": "a"}\n{"text": ["b"]}\n', r"row 2 has no text in column 'text' but list"),
        ('{"id": "a", "text": "a"}\n{"text": "b"}\n', r"row 2 has no id in column 'id'"),
    ],
)
def test_rows_that_cannot_be_audited_are_refused_with_their_place(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(lines)
    with pytest.raises(AuditError, match=message):
        audit_dataset(tmp_path / "rows.jsonl")


def test_a_folder_of_datasets_is_refused_and_one_of_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "out" / "faq" / "__meta__").mkdir(parents=True)
    with pytest.raises(AuditError, match=r"holds the datasets faq; audit one of them, such as .*out/faq"):
        audit_dataset(tmp_path / "out")
    (tmp_path / "files").mkdir()
    write_rows(tmp_path / "files" / "a.parquet", [{"text": "Some text."}])
    assert audit_dataset(tmp_path / "files").rows == 1


def test_text_that_is_not_utf_8_is_audited(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "half \\ud83d of a pair"}\n')
    assert audit_dataset(tmp_path / "rows.jsonl").rows == 2


@pytest.mark.slow
def test_an_error_in_one_of_several_processes_is_the_error_of_the_audit(tmp_path: Path) -> None:
    rows = [{"text": text} for text in texts(100)]
    rows[-1] = {"text": 7}  # type: ignore[dict-item]
    with pytest.raises(AuditError, match="row 100 has no text in column 'text' but int"):
        audit_dataset(write_rows(tmp_path / "rows.jsonl", rows), processes=2)


@pytest.mark.slow
def test_a_script_without_a_main_guard_may_audit_in_several_processes(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in texts(100)])
    script = tmp_path / "script.py"
    script.write_text(f"import finephrase_dagster as fp\nprint(fp.audit_dataset({str(rows)!r}, processes=2).rows)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "100\n"


def test_a_setting_that_is_given_holds_for_all_forms_but_those_with_their_own() -> None:
    defaults = {"g": {"threshold": 0.5, "words": 9, "blocking": True, "forms": {"faq": {"threshold": 0.1, "words": 2}}}}
    complete = complete_gates({}, defaults)
    assert settings_for(complete, "faq")["g"] == {"threshold": 0.1, "words": 2, "blocking": True}
    assert settings_for(complete, None)["g"] == {"threshold": 0.5, "words": 9, "blocking": True}
    complete = complete_gates({"g": {"words": 4, "blocking": False, "forms": {"table": 0.7}}}, defaults)
    assert settings_for(complete, "faq")["g"] == {"threshold": 0.1, "words": 4, "blocking": False}
    assert settings_for(complete, "table")["g"] == {"threshold": 0.7, "words": 4, "blocking": False}
    assert complete_gates(complete, defaults) == complete


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"empty": {"blocking": 1}}, "empty.blocking: is 1; must be true or false"),
        ({"empty": {"forms": {"sonnet": 1}}}, "empty.forms.sonnet: there is no 'sonnet'"),
        ({"empty": {"forms": {"faq": {"threshold": 2}}}}, "empty.forms.faq.threshold: is 2; must be a share"),
        ({"empty": {"forms": 3}}, "empty.forms: is 3; must be settings by form: faq"),
        ({"empty": {"forms": {"faq": {"forms": {}}}}}, "empty.forms.faq.forms: a form has no forms"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        resolve_settings(given, "faq")


def test_a_gate_that_does_not_block_leaves_the_audit_passed(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": ""}, {"text": "Text."}])
    for settings, passed in (({}, False), ({"empty": {"blocking": False}}, True)):
        assert audit_dataset(rows, settings=settings).passed is passed


@pytest.mark.slow
def test_every_gate_states_the_time_that_it_took(tmp_path: Path) -> None:
    report = audit_dataset(write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in texts(2000)]))
    assert report.reading_seconds > 0
    assert sum(gate.seconds for gate in report.gates) > 0
    assert {gate.name for gate in report.gates} <= set(gates())


@given(st.one_of(st.text(), st.text(alphabet="ab'_ 1.\n\t\x1c\x85\u2019\u201c\u2014\x01\u4e2d\u00e9-", max_size=40)))
def test_words_are_those_of_the_pattern(text: str) -> None:
    wide = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    expected = re.findall(rf"[^\W{wide}]+(?:['\u2019][^\W{wide}]+)*|[{wide}]", text.lower())
    assert split_words(text) == expected
    rows = [AuditedRow("1", text, source_text="One, two"), AuditedRow("2", "", source_text=text)]
    share_words(rows)
    assert [vars(row)["words"] for row in rows] == [expected, []]
    assert [vars(row)["source_words"] for row in rows] == [["one", "two"], expected]
    assert [vars(rows[0])["word_hashes"].tolist(), vars(rows[1])["source_word_hashes"].tolist()] == 2 * [
        [short_hash(word) for word in expected]
    ]
