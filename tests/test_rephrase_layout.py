"""A finished dataset opens in the usual readers, which see its completions alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import duckdb
import fsspec
import pandas
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from finephrase_dagster.commands.main import app
from finephrase_dagster.rephrase.dataset import read_dataset
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.readme import README, write_readme
from rephrase_parts import LocalServer, completion, documents, failure, local_server

ROWS = 12


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        one.answer = lambda request: (
            failure(400, "refused") if "Document 3." in str(request["messages"]) else completion()
        )
        yield one


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rephrase(server: LocalServer, rows: Path, output: str, prompts: str = "faq,math") -> None:
    options = ["--input", str(rows), "--prompt", prompts, "--output", output, "--chunk-rows", "5"]
    result = CliRunner().invoke(app, ["rephrase", *options, "--endpoint", server.url, "--model", "tiny"])
    assert result.exit_code == 0, result.output


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": name, "text": text}) for name, text in [*documents(ROWS), ("empty", "")]]
    path.write_text("\n".join(lines))
    return path


def test_a_finished_dataset_opens_in_every_reader(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    output = tmp_path / "out"
    rephrase(server, rows, str(output))
    ids = sorted(name for name, _ in documents(ROWS) if name != "doc-3")
    manifest = json.loads((output / "faq" / "__meta__" / "manifest.json").read_text())
    assert [manifest[count] for count in ("completed", "skipped", "failed", "documents_cut")] == [ROWS - 1, 1, 1, 0]
    by_name = datasets.load_dataset(str(output), "faq", split="train")
    by_folder = datasets.load_dataset(str(output / "faq"), split="train")
    by_arrow = pq.read_table(output / "faq")
    by_duckdb = duckdb.sql(f"SELECT * FROM '{output}/faq/*.parquet'").arrow().read_all()
    by_pandas = pandas.read_parquet(output / "faq")
    by_api = read_dataset(output / "faq").table()
    for table in (by_name, by_folder, by_arrow.to_pandas(), by_duckdb.to_pandas(), by_pandas, by_api.to_pandas()):
        assert sorted(table["id"]) == ids
        assert set(table["document_cut"]) == {False}
        assert set(table["prompt"]) == {"faq"}


def test_the_readme_names_one_configuration_per_prompt_also_of_earlier_runs(
    tmp_path: Path, server: LocalServer, rows: Path
) -> None:
    output = tmp_path / "out"
    rephrase(server, rows, str(output), "faq")
    (output / "notes").mkdir()
    rephrase(server, rows, str(output), "math,table")
    front_matter = yaml.safe_load((output / README).read_text().split("---")[1])
    assert front_matter["configs"] == [
        {"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("faq", "math", "table")
    ]
    assert datasets.get_dataset_config_names(str(output)) == ["faq", "math", "table"]


def test_a_prompt_without_a_completion_has_no_configuration(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    output = tmp_path / "out"
    server.answer = lambda request: (
        failure(400, "refused") if "word problem" in str(request["messages"]) else completion()
    )
    rephrase(server, rows, str(output), "faq,math")
    assert "| math | tiny | 0 | 1 | 12 |" in (output / README).read_text()
    assert datasets.get_dataset_config_names(str(output)) == ["faq"]


def test_a_readme_that_somebody_else_wrote_is_kept(tmp_path: Path, server: LocalServer, rows: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / README).write_text("My notes.")
    rephrase(server, rows, str(output))
    assert (output / README).read_text() == "My notes."


def test_an_object_store_holds_the_same_layout(server: LocalServer, rows: Path) -> None:
    output = "memory://layout/out"
    rephrase(server, rows, output)
    store = fsspec.filesystem("memory")
    names = {entry["name"].removeprefix("/layout/out/") for entry in store.ls("/layout/out/faq", detail=True)}
    assert names == {"faq/__meta__", *(f"faq/part-00000-{chunk:05d}.parquet" for chunk in range(3))}
    write_readme(folder_at(output))
    assert "config_name: faq" in store.cat_file("/layout/out/README.md").decode()
