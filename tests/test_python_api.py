"""The Python API: what `import finephrase_dagster as fp` offers a notebook."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import finephrase_dagster as fp
from rephrase_parts import LocalServer, completion, local_server

IMPORT_SECONDS = 0.2
TEXT = "Q: What is it?\nA: A document.\n\nQ: What does it state?\nA: A fact."


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        one.answer = lambda request: completion(TEXT)
        yield one


def test_a_notebook_cell_rephrases_reads_and_audits(server: LocalServer, tmp_path: Path) -> None:
    documents = ["Water boils at 100 degrees Celsius.", "Copper conducts electricity.", "Ice floats on water."]
    dataset = fp.rephrase_documents(
        documents, prompt="faq", output=tmp_path / "out", endpoint=server.url, model="tiny", max_tokens=64
    )
    again = fp.read_dataset(tmp_path / "out" / "faq")
    report = fp.audit_dataset(tmp_path / "out" / "faq", check="faq")
    assert [row["id"] for row in dataset.rows] == [row["id"] for row in again.rows] == ["0", "1", "2"]
    assert {row["text"] for row in dataset.rows} == {TEXT}
    assert {gate.name: gate.passed for gate in report.gates}["form"]


def test_several_prompts_give_a_dataset_each(server: LocalServer, tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "Ice floats on water."}]
    datasets = fp.rephrase_documents(
        rows, prompt=["faq", "table"], output=tmp_path, endpoint=server.url, model="tiny", max_tokens=64
    )
    assert {name: [row["id"] for row in dataset.rows] for name, dataset in datasets.items()} == {
        "faq": ["a"],
        "table": ["a"],
    }


def test_a_wrong_request_is_one_error_with_the_next_action(tmp_path: Path) -> None:
    with pytest.raises(fp.FinephraseError, match="--endpoint"):
        fp.rephrase_documents(["Some text."], prompt="faq", output=tmp_path)


def test_scores_are_read_from_a_study_file_without_any_study_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path))
    table = fp.read_scores("studies/demo.yaml")
    assert table.num_rows == 0
    assert {"run", "mixture", "name", "score", "low", "high"} <= set(table.column_names)


def test_every_public_name_exists_and_is_documented() -> None:
    for name in fp.__all__:
        assert getattr(fp, name).__doc__, name
    assert set(fp.__all__) <= set(dir(fp))
    assert fp.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fp.nothing


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("audit_dataset", ["threshold", "failing", "examples"]),
        ("rephrase_documents", ["finish_reason", "document_cut", "completion_tokens"]),
        ("read_scores", ["mixture", "data_seed", "kind", "low", "high"]),
    ],
)
def test_the_help_of_a_function_shows_its_public_name_and_the_columns(name: str, columns: list[str]) -> None:
    text = pydoc.render_doc(getattr(fp, name), renderer=pydoc.plaintext)
    assert f"\n{name}(" in text
    assert "<function" not in text
    assert [column for column in columns if f"`{column}`" not in text] == []


def test_the_import_is_cheap_and_loads_no_library() -> None:
    program = (
        "import sys, time; before = set(sys.modules); start = time.process_time(); import finephrase_dagster; "
        "print(time.process_time() - start, *{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.split()
    assert float(seconds) < IMPORT_SECONDS
    assert not set(loaded) - {*sys.stdlib_module_names, "finephrase_dagster"}
