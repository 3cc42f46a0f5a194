"""The command `finephrase audit`: exit statuses, what it prints, and the file of failing rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from finephrase_dagster.audit.audit import Audit
from finephrase_dagster.audit.failing import write_failing_rows
from finephrase_dagster.commands.main import app
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompt

GATE_FIELDS = {"name", "value", "threshold", "bound", "blocking", "passed", "failing"}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eight sound rows and two empty ones."""
    names = ("Como", "Geneva", "Bled", "Ohrid", "Garda", "Onega", "Inari", "Tahoe")
    texts = [f"{name} lies {index * 7 + 3} km from the sea." for index, name in enumerate(names)]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": [f"r{index}" for index in range(10)], "text": [*texts, "", " "]}), path)
    return path


def failing_rows(path: Path) -> list[tuple[str, str]]:
    table = pq.read_table(path)
    assert table.column_names == ["id", "gate", "reason"]
    assert all(table["reason"].to_pylist())
    return list(zip(table["id"].to_pylist(), table["gate"].to_pylist(), strict=True))


def test_a_failed_gate_ends_with_1_and_states_what_to_do(rows: Path) -> None:
    done = run(rows, "--gate", "common_opening=1")
    assert done.exit_code == 1
    assert "empty" in done.stdout
    assert "FAILED" in done.stdout
    assert "  r8: empty" in done.stdout
    assert "What to do: Look at the documents of the empty completions." in done.stdout
    assert "  2 of only 10 rows: so small a sample decides little; audit more" in done.stdout
    assert "not run: form needs --check FORM" in done.stdout
    assert "dclm_score needs a model: --gate dclm_score.model=PATH_OR_HUB_NAME. It records the mean" in done.stdout
    assert "10 completions: the dataset does not pass: empty" in done.stdout


def test_gates_are_changed_on_the_command_line(rows: Path) -> None:
    lenient = ("--gate", "common_opening=1")
    assert run(rows, *lenient, "--gate", "empty=0.2").exit_code == 0
    done = run(rows, *lenient, "--gate", "empty.blocking=false")
    assert done.exit_code == 0
    assert "warning" in done.stdout


def test_the_report_is_one_json_document(rows: Path) -> None:
    done = run(rows, "--json", "--check", "faq", "--rows", rows.with_name("failing.parquet"))
    report = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (report["passed"], report["rows"]) == (False, 10)
    assert all(gate.keys() >= GATE_FIELDS for gate in report["gates"])
    assert "on_failure: drop_rows leaves out 10 of 10 completions: those that fail empty or form" in done.stderr
    counts = Counter(gate for _, gate in failing_rows(rows.with_name("failing.parquet")))
    assert {gate["name"]: gate["failing"] for gate in report["gates"] if gate["failing"]} == counts


@pytest.mark.slow
@given(data=st.lists(st.sampled_from(["", "Q: Why?\nA: Because.", "Plain text.", "Here it is."]), min_size=1))
@settings(max_examples=15)
def test_failing_rows_are_those_that_the_gates_count_in_any_number_of_parts(
    tmp_path_factory: pytest.TempPathFactory, data: list[str]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(pa.table({"text": data}), path)
    with Audit(path, check="faq") as audit:
        write_failing_rows(audit, path.with_name("failing.parquet"))
    found = failing_rows(path.with_name("failing.parquet"))
    counts = {gate.name: gate.failing for gate in audit.report.gates if gate.failing}
    assert Counter(gate for _, gate in found) == counts
    assert [id for id, gate in found if gate == "empty"] == [f"{n}" for n, text in enumerate(data, 1) if not text]


@pytest.mark.slow
def test_several_processes_write_the_failing_rows_of_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "" if n % 5 == 0 else f"Text {n}."}) + "\n" for n in range(200)))
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for processes, file in enumerate(files, 1):
        run(path, "--rows", file, "--processes", processes)
    assert failing_rows(files[0]) == failing_rows(files[1])
    assert len(failing_rows(files[0])) >= 40


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """The datasets of two prompts, which give the same text for every fourth document."""
    from test_audit_gates import faq, write_dataset

    texts = [faq(index) for index in range(12)]
    others = [text if index % 4 == 0 else f"Another text {index * 31} of its own." for index, text in enumerate(texts)]
    prompt = read_prompt(SHIPPED / "prompts" / "faq.md")
    for name, some in {"faq": texts, "mine": others}.items():
        (tmp_path / "out" / name).mkdir(parents=True)
        recipe = {"prompt": {"name": name, "system": prompt.system, "template": prompt.template}}
        write_dataset(tmp_path / "out" / name, some, recipe=recipe)
    return tmp_path / "out"


@pytest.mark.slow
def test_a_folder_of_several_prompts_is_audited_with_what_they_have_in_common(prompts: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run(prompts, "--json", "--html", page, "--gate", "completed.blocking=false")
    report = json.loads(done.stdout)
    assert [one["near_duplicates"] for one in report["overlaps"]] == [0.25]
    assert report["datasets"].keys() == {"faq", "mine"}
    assert "form" not in report["datasets"]["faq"]["skipped"]  # the packaged prompt says which form
    assert report["datasets"]["mine"]["skipped"]["form"] == "needs check"
    assert report["passed"] is all(one["passed"] for one in report["datasets"].values())
    assert done.exit_code == (0 if report["passed"] else 1)
    assert "Prompts on the same documents" in page.read_text(encoding="utf-8")
    shown = run(prompts).stdout
    assert " faq      mine    warning             25.0%" in shown
    assert "What to do: Leave one of the prompts out" in shown


def test_failing_rows_are_written_for_one_prompt_alone(prompts: Path, tmp_path: Path) -> None:
    done = run(prompts, "--rows", tmp_path / "rows.parquet")
    assert done.exit_code == 2
    assert f"{prompts} holds the datasets faq, mine; audit one of them" in done.stderr


@pytest.mark.slow
def test_documents_without_a_completion_are_failing_rows(tmp_path: Path) -> None:
    from test_audit_gates import faq, write_dataset

    write_dataset(tmp_path, [faq(index) for index in range(9)], rejected=[("failed", "timeout")])
    run(tmp_path, "--check", "faq", "--rows", tmp_path.with_name("failing.parquet"))
    assert failing_rows(tmp_path.with_name("failing.parquet")) == [("r0", "completed")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.parquet"], "nowhere.parquet: no such file or folder; correct the path"),
        (["ROWS", "--check", "sonnet"], "check 'sonnet': no such form; use one of faq, math"),
        (["ROWS", "--gate", "form"], "--gate form: write NAME=VALUE, such as form=0.9"),
        (["ROWS", "--gate", "form=high"], "form.threshold: is 'high'; must be a share"),
        (["ROWS", "--gate", "farm=1"], "there is no 'farm'; did you mean form?"),
        (["ROWS", "--rows", "nowhere/rows.parquet"], "--rows nowhere/rows.parquet: no folder nowhere; create it"),
        (["ROWS", "--rows", "ROWS"], "is one of the inputs; name another file"),
        (["ROWS", "--source", "nowhere.jsonl"], "--source nowhere.jsonl: no such file"),
        (["ROWS", "--processes", "0"], "--processes: 0 is less than 1"),
    ],
)
def test_a_wrong_request_ends_with_2_and_one_line(rows: Path, arguments: list[Any], message: str) -> None:
    done = run(*(str(rows) if word == "ROWS" else word for word in arguments))
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_is_left_of_a_file_of_failing_rows_that_cannot_be_written(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("finephrase_dagster.audit.failing.pq.ParquetWriter.write_table", fail)
    done = run(rows, "--rows", rows.with_name("failing.parquet"))
    assert done.exit_code == 1
    assert [path.name for path in rows.parent.iterdir()] == ["rows.parquet"]
