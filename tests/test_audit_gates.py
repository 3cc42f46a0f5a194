"""The audit of a synthetic dataset on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.audit.audit import AuditReport, GateResult, audit_dataset
from finephrase_dagster.audit.dataset import AuditError
from finephrase_dagster.audit.gates import __path__ as gate_folders
from finephrase_dagster.audit.gates import gates

SETTINGS = {
    "completed": {"threshold": 0.9},
    "empty": {"threshold": 0.1},
    "truncated": {"threshold": 0.1},
    "form": {"threshold": 0.8},
    "common_opening": {"threshold": 0.5, "characters": 10},
}
REJECTED = pa.schema([("id", pa.string()), ("status", pa.string()), ("reason", pa.string())])


def faq(index: int) -> str:
    return f"Q: {chr(97 + index)}{index} is what?\nA: It is {index}.\n\nQ: And then?\nA: {index + 1} comes."


def write_dataset(
    folder: Path,
    texts: Sequence[str],
    *,
    rejected: Sequence[tuple[str, str]] = (),
    truncated: int = 0,
    parts: int = 2,
    **overrides: Any,
) -> Path:
    """Write a dataset as `rephrase` does; `overrides` replace fields of its manifest."""
    rows = [
        {
            "id": f"d{index}",
            "prompt": "faq",
            "text": text,
            "finish_reason": "length" if index < truncated else "stop",
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "document_cut": False,
        }
        for index, text in enumerate(texts)
    ]
    (folder / "__meta__").mkdir(exist_ok=True)
    files = []
    for part in range(parts):
        path = folder / f"part-{part:05d}.parquet"
        table = pa.Table.from_pylist(rows[part::parts]) if rows[part::parts] else pa.table(
            {name: pa.array([], pa.string()) for name in ("id", "text", "finish_reason")}
        )  # fmt: skip
        pq.write_table(table, path)
        files.append({"path": path.name, "rows": len(table), "sha256": sha256_file(path)})
    rejected_rows = [{"id": f"r{i}", "status": status, "reason": why} for i, (status, why) in enumerate(rejected)]
    pq.write_table(pa.Table.from_pylist(rejected_rows, schema=REJECTED), folder / "__meta__" / "rejected.parquet")
    count = {name: sum(status == name for status, _ in rejected) for name in ("skipped", "failed")}
    manifest = {"rows_in": len(rows) + len(rejected_rows), "completed": len(rows), **count, "files": files} | overrides
    (folder / "__meta__" / "manifest.json").write_text(json.dumps(manifest))
    return folder


def audited_faq(folder: Path) -> AuditReport:
    return audit_dataset(folder, check="faq", settings=SETTINGS)


def gate(audited: AuditReport, name: str) -> GateResult:
    return next(result for result in audited.gates if result.name == name)


def failed(audited: AuditReport) -> list[str]:
    """Return which of the gates that this file tests failed."""
    tested = {"accounting", *SETTINGS}
    return [result.name for result in audited.gates if not result.passed and result.name in tested]


def test_a_good_dataset_passes_every_gate(tmp_path: Path) -> None:
    audited = audited_faq(write_dataset(tmp_path, [faq(i) for i in range(19)], rejected=[("failed", "too slow")]))
    assert audited.passed
    assert {"accounting", *SETTINGS} <= {result.name for result in audited.gates}
    assert (audited.rows, gate(audited, "common_opening").figures) == (19, {"distinct_openings": 19})
    assert gate(audited, "completed").value == 0.95
    assert all(not result.examples for result in audited.gates)
    assert json.loads(json.dumps(audited.as_json()))["passed"] is True


def test_too_few_completed_documents_fail_with_the_rejected_ones_as_examples(tmp_path: Path) -> None:
    audited = audited_faq(write_dataset(tmp_path, [faq(i) for i in range(8)], rejected=[("failed", "timeout")] * 2))
    assert failed(audited) == ["completed"]
    assert gate(audited, "completed").value == 0.8
    assert gate(audited, "completed").examples[0].reason == "failed: timeout"


def test_empty_completions_fail_and_have_no_form(tmp_path: Path) -> None:
    audited = audited_faq(write_dataset(tmp_path, [*(faq(i) for i in range(7)), "", " \n", ""], parts=1))
    assert failed(audited) == ["empty", "form"]
    assert gate(audited, "empty").value == 0.3
    assert [example.id for example in gate(audited, "empty").examples] == ["d7", "d8", "d9"]


def test_truncated_completions_fail(tmp_path: Path) -> None:
    audited = audited_faq(write_dataset(tmp_path, [faq(i) for i in range(10)], truncated=2))
    assert failed(audited) == ["truncated"]
    assert gate(audited, "truncated").value == 0.2


def test_a_value_equal_to_the_threshold_passes(tmp_path: Path) -> None:
    audited = audited_faq(write_dataset(tmp_path, [*(faq(i) for i in range(8)), "no form", "none"], truncated=1))
    assert gate(audited, "form").value == 0.8
    assert audited.passed


def test_completions_of_another_form_fail_with_the_commonest_flaw(tmp_path: Path) -> None:
    audited = audited_faq(write_dataset(tmp_path, [*(faq(i) for i in range(7)), "x" * 900, "yes", "no"], parts=1))
    assert failed(audited) == ["form"]
    assert "most common flaw, 3 times: begins with something other" in gate(audited, "form").detail
    assert len(gate(audited, "form").examples[0].text) == 240


def test_a_common_opening_fails_and_is_quoted(tmp_path: Path) -> None:
    same = "Q: What is it?\nA: A queue.\n\nQ: Number?\nA: {}."
    audited = audited_faq(write_dataset(tmp_path, [*(same.format(i) for i in range(6)), *(faq(i) for i in range(4))]))
    assert failed(audited) == ["common_opening"]
    assert gate(audited, "common_opening").value == 0.6
    assert "'Q: What is'" in gate(audited, "common_opening").detail
    assert gate(audited, "common_opening").figures == {"distinct_openings": 5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rows_in": 12}, "rows_in 12 is not the sum of completed 10, skipped 1 and failed 0"),
        ({"completed": 9, "rows_in": 10}, "the data files hold 10 rows, the manifest lists 9 completed"),
        ({"skipped": 0, "rows_in": 10}, "holds 1 skipped rows, the manifest lists 0"),
        ({"files": []}, "part-00000.parquet is not in the manifest"),
    ],
)
def test_a_manifest_that_does_not_add_up_fails_the_accounting(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    texts = [faq(i) for i in range(10)]
    audited = audited_faq(write_dataset(tmp_path, texts, rejected=[("skipped", "empty")], **overrides))
    assert "accounting" in failed(audited)
    assert message in gate(audited, "accounting").detail


def test_files_that_differ_from_the_manifest_fail_the_accounting(tmp_path: Path) -> None:
    write_dataset(tmp_path, [faq(i) for i in range(10)])
    pq.write_table(pq.read_table(tmp_path / "part-00000.parquet").slice(1), tmp_path / "part-00000.parquet")
    (tmp_path / "part-00001.parquet").write_bytes(b"cut off")
    (tmp_path / "__meta__" / "rejected.parquet").unlink()
    pq.write_table(pq.read_table(tmp_path / "part-00000.parquet"), tmp_path / "copy of part-00000.parquet")
    detail = gate(audited_faq(tmp_path), "accounting").detail
    assert "part-00000.parquet has 4 rows, the manifest lists 5" in detail
    assert "part-00000.parquet has another sha256 than the manifest lists" in detail
    assert "part-00001.parquet cannot be read" in detail
    assert "copy of part-00000.parquet is not in the manifest" in detail, "*.parquet would read its rows twice"
    assert "rejected.parquet cannot be read" in detail


def test_an_edited_manifest_fails_the_accounting(tmp_path: Path) -> None:
    write_dataset(tmp_path, [faq(i) for i in range(3)], seal="of other content")
    assert "manifest.json was edited" in gate(audited_faq(tmp_path), "accounting").detail


@pytest.mark.parametrize("remembered", [2, 100_000])
def test_the_most_common_opening_is_found_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr("finephrase_dagster.audit.common_text.REMEMBERED", remembered)
    monkeypatch.setattr("finephrase_dagster.audit.span.CHUNK_ROWS", 3)
    texts = [f"{'The same opening' if i % 3 else f'{i} of its own'} {i}" for i in range(30)]
    result = gate(audited_faq(write_dataset(tmp_path, texts)), "common_opening")
    assert (result.value, result.failing, result.figures) == (20 / 30, 20, {"distinct_openings": 11})
    assert "begin with 'The same o'" in result.detail
    assert {row.reason for row in result.examples} == {"begins with 'The same o', as 66.7% of the completions do"}


def test_a_repeated_document_fails_the_accounting(tmp_path: Path) -> None:
    write_dataset(tmp_path, [faq(i) for i in range(10)], rejected=[("skipped", "empty")])
    table = pa.Table.from_pylist([{"id": "d3", "status": "skipped", "reason": "empty"}], schema=REJECTED)
    pq.write_table(table, tmp_path / "__meta__" / "rejected.parquet")
    assert "1 ids occur more than once, such as 'd3'" in gate(audited_faq(tmp_path), "accounting").detail


def test_a_dataset_without_completions_fails(tmp_path: Path) -> None:
    audited = audited_faq(write_dataset(tmp_path, [], rejected=[("failed", "no answer")] * 3))
    assert failed(audited) == ["completed", "form"]
    assert audited.rows == 0


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"no __meta__/manifest.json, so the dataset is not complete"):
        audited_faq(tmp_path)
    (tmp_path / "__meta__").mkdir()
    (tmp_path / "__meta__" / "manifest.json").write_text("{}")
    with pytest.raises(AuditError, match=r"missing rows_in, completed, skipped, failed, files"):
        audited_faq(tmp_path)
    (tmp_path / "__meta__" / "manifest.json").write_text("{")
    with pytest.raises(AuditError, match=r"cannot be read"):
        audited_faq(tmp_path)


def test_one_file_in_the_folder_of_gates_adds_a_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gates"
    folder.mkdir()
    (folder / "shouting.py").write_text(
        "from finephrase_dagster.audit.gate import row_gate\n"
        "GATE = row_gate(name='shouting', sentence='the share of completions in capitals', bound='at most',\n"
        "    defaults={'threshold': 0.2},\n"
        "    find_flaw=lambda row, dataset, settings: 'capitals' if row.text.isupper() else None)\n"
    )
    monkeypatch.setattr("finephrase_dagster.audit.gates.__path__", [*gate_folders, str(folder)])
    assert gates()["shouting"].sentence == "the share of completions in capitals"
    (tmp_path / "data").mkdir()
    report = audit_dataset(write_dataset(tmp_path / "data", ["QUIET", *(faq(i) for i in range(3))]))
    assert [result.name for result in report.gates if not result.passed] == ["shouting"]
    assert [row.id for row in gate(report, "shouting").examples] == ["d0"]
    assert (gate(report, "shouting").value, gate(report, "shouting").failing) == (0.25, 1)


def test_a_bare_parquet_file_is_audited_by_the_gates_that_it_has_columns_for(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "text": ["Something.", None]}), tmp_path / "texts.parquet")
    report = audit_dataset(tmp_path / "texts.parquet")
    assert failed(report) == ["empty"]
    assert gate(report, "empty").examples[0].id == "2"
    assert report.skipped == {
        "accounting": "needs manifest",
        "completed": "needs manifest",
        "copying": "needs source_text",
        "dclm_score": "needs model",
        "edu_score": "needs model",
        "faithfulness": "needs source_text",
        "form": "needs check",
        "invented_quantities": "needs source_text",
        "left_out": "needs drop_rows",
        "length": "needs source_text",
        "other_script": "needs source_text",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"forms": {"threshold": 1}}}, "gates: forms: there is no 'forms'; did you mean form"),
        ({"settings": {"form": {"min": 1}}}, "gates: form.min: there is no 'min'; known: threshold"),
        ({"check": "sonnet"}, "check 'sonnet': no such form; use one of faq"),
    ],
)
def test_an_unknown_gate_setting_or_form_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        audit_dataset(write_dataset(tmp_path, [faq(0)]), **arguments)


def test_a_dataset_that_spans_several_chunks_is_measured_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finephrase_dagster.audit.span.CHUNK_ROWS", 3)
    report = audited_faq(write_dataset(tmp_path, [*(faq(i) for i in range(17)), "", ""], truncated=1))
    assert (report.rows, gate(report, "empty").failing) == (19, 2)
    assert gate(report, "form").value == 17 / 19
