"""The release: the rows of the datasets and nothing else, in files that every reader opens, whatever interrupts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.release import release_artifact
from finephrase_dagster.artifacts.verification import ArtifactDamaged, verify_folder
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.plan.plan import plan
from finephrase_dagster.release.card import _size
from finephrase_dagster.release.content import COLUMNS, SCHEMA, ContentHash
from finephrase_dagster.release.export import ExportWrong, content_of
from finephrase_dagster.release.publish import ReleaseRefused, publish
from finephrase_dagster.rephrase.journals import COMPLETED_SCHEMA
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.paths import REPOSITORY, Paths
from release_parts import DOCUMENTS, SHARDS, SMALL_FILE, finished_study, make_upstream, small_files
from test_cli import finephrase

ROWS = SHARDS * DOCUMENTS


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A finished study; no test may change it."""
    return finished_study(tmp_path_factory.mktemp("release") / "study")


@pytest.fixture(scope="module")
def lineage(paths: Paths) -> Lineage:
    return read_lineage(paths)


@pytest.fixture(scope="module")
def out(lineage: Lineage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its release; no test may change it."""
    folder = tmp_path_factory.mktemp("out") / "released"
    publish(lineage, folder)
    return folder


@pytest.fixture
def own(paths: Paths, tmp_path: Path) -> Paths:
    """A copy of the study that a test may change."""
    shutil.copytree(paths.data, tmp_path / "data", symlinks=True)
    shutil.copy(paths.study, tmp_path / "study.yaml")
    return replace(paths, data=tmp_path / "data", study=tmp_path / "study.yaml")


def own_rows(lineage: Lineage, prompt: str) -> list[dict[str, Any]]:
    folder = lineage.dataset(lineage.study.cells[0], prompt).folder
    return [row for path in sorted(folder.glob("part-*")) for row in pq.read_table(path).to_pylist()]


def content(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a folder, without what verification writes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "verified.json"))
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def test_every_reader_opens_a_release_and_finds_the_rows_of_the_datasets(
    out: Path, lineage: Lineage, tmp_path: Path
) -> None:
    import datasets

    expected = own_rows(lineage, "faq")
    table = pq.read_table(out / "faq")
    assert table.select(list(COLUMNS)).select(COMPLETED_SCHEMA.names).to_pylist() == expected
    loaded = datasets.load_dataset(str(out), "faq", split="train", cache_dir=str(tmp_path))
    assert (loaded.num_rows, loaded.column_names) == (ROWS, SCHEMA.names)
    assert datasets.get_dataset_config_names(str(out)) == ["faq", "table"]
    counted = duckdb.execute("SELECT prompt, count(*) FROM read_parquet(?) GROUP BY 1", [f"{out}/*/*.parquet"])
    assert dict(counted.fetchall()) == {"faq": ROWS, "table": ROWS}


def test_each_row_says_where_it_comes_from(out: Path, lineage: Lineage, paths: Paths) -> None:
    rows = pq.read_table(out / "table").to_pylist()
    dataset = lineage.dataset(lineage.study.cells[0], "table")
    assert {(row["model"], row["model_revision"]) for row in rows} == {
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "c0ffee" * 6)
    }
    assert {row["recipe_fingerprint"] for row in rows} == {dataset.fingerprint}
    assert {row["prompt_sha256"] for row in rows} == {lineage.prompts["table"].digest}
    assert {row["seed"] for row in rows} == {3}
    corpus = lineage.source("topics").folder
    for row in rows:
        ids = pq.read_table(corpus / row["source_shard"], columns=["id"])["id"].to_pylist()
        assert row["id"] in ids
    private = str(paths.data.parent).encode()
    assert not any(
        private in path.read_bytes() for path in out.rglob("*") if path.is_file() and "meta" not in str(path)
    )


def test_the_lineage_leads_from_each_file_to_the_files_it_was_made_from(out: Path, lineage: Lineage) -> None:
    lines = [json.loads(line) for line in (out / "lineage.jsonl").read_text().splitlines()]
    assert sum(line["rows"] for line in lines if line["configuration"] == "faq") == ROWS
    dataset, corpus = lineage.dataset(lineage.study.cells[0], "faq"), lineage.source("topics")
    for line in (line for line in lines if line["configuration"] == "faq"):
        assert sha256_file(out / line["file"]) == line["sha256"]
        assert sha256_file(dataset.folder / line["dataset_file"]) == line["dataset_file_sha256"]
        assert sha256_file(corpus.folder / line["source_shard"]) == line["source_shard_sha256"]
        assert line["prompt_sha256"] == lineage.prompts["faq"].digest


def test_the_columns_are_those_of_a_dataset() -> None:
    assert {name: type_ for name, (type_, _) in COLUMNS.items()} == {
        field.name: field.type for field in COMPLETED_SCHEMA
    }


def test_a_second_run_writes_nothing_and_answers_at_once(lineage: Lineage, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    started = time.monotonic()
    publish(lineage, out)
    assert time.monotonic() - started < 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


def test_two_releases_of_the_same_datasets_have_the_same_bytes(own: Paths, out: Path, tmp_path: Path) -> None:
    publish(read_lineage(own), tmp_path / "again")
    assert (
        content(tmp_path / "again").items()
        >= {name: sha for name, sha in content(out).items() if "meta" not in name}.items()
    )


def test_no_file_is_larger_than_the_bound(lineage: Lineage, tmp_path: Path) -> None:
    files = small_files(lineage, tmp_path)
    assert len(files) > 3
    assert all((tmp_path / file["path"]).stat().st_size == file["bytes"] for file in files)
    assert max(file["bytes"] for file in files) <= SMALL_FILE


KILLED = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.study.paths import Paths
from release_parts import small_files
data, study, prompts, folder, number = sys.argv[1:]
def log(line):
    if number in line:
        os.kill(os.getpid(), signal.SIGKILL)
small_files(read_lineage(Paths(data=Path(data), study=Path(study), prompts=Path(prompts))), Path(folder), log)
"""


@pytest.mark.slow
def test_an_export_that_is_killed_ends_with_the_same_bytes(paths: Paths, tmp_path: Path) -> None:
    lineage = read_lineage(paths)
    expected = small_files(lineage, tmp_path / "whole")
    arguments = [str(paths.data), str(paths.study), str(paths.prompts), str(tmp_path / "killed")]
    search = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    command = [sys.executable, "-c", KILLED, *arguments, "part-00002"]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": search}, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    with (tmp_path / "killed" / "__meta__" / "export.jsonl").open("a") as torn:
        torn.write('{"path": "part-000')
    (tmp_path / "killed" / "part-00009.parquet").write_bytes(b"left over")
    messages: list[str] = []
    assert small_files(lineage, tmp_path / "killed", messages.append) == expected
    assert messages[0] == "resumes after 3 files"
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_row_that_differs_from_its_dataset_is_found(lineage: Lineage, tmp_path: Path) -> None:
    def tamper(line: str) -> None:
        path = tmp_path / line.split(":")[0]
        table = pq.read_table(path)
        place = table.schema.get_field_index("text")
        texts = ["another text", *table["text"].to_pylist()[1:]]
        pq.write_table(table.set_column(place, "text", pa.array(texts)), path)

    with pytest.raises(ExportWrong, match=r"not the 60 rows of the datasets. Delete the folder"):
        small_files(lineage, tmp_path, tamper)


def test_the_content_hash_sees_every_change_and_no_division(lineage: Lineage) -> None:
    table = pa.Table.from_pylist(own_rows(lineage, "faq"), COMPLETED_SCHEMA)
    whole = content_of([table]).hexdigest()
    assert content_of([table.slice(0, 7), table.slice(7)]).hexdigest() == whole
    changed: list[dict[str, Any]] = [{"id": "x"}, {"text": None}, {"prompt_tokens": 101}, {"document_cut": True}]
    hashes = {whole, content_of([table.slice(1)]).hexdigest(), ContentHash().hexdigest()}
    for change in changed:
        rows = table.to_pylist()
        rows[5] |= change
        hashes.add(content_of([pa.Table.from_pylist(rows, COMPLETED_SCHEMA)]).hexdigest())
    rows = table.to_pylist()
    rows[5]["text"], rows[6]["text"] = rows[5]["text"] + rows[6]["text"][:9], rows[6]["text"][9:]
    hashes.add(content_of([pa.Table.from_pylist(rows, COMPLETED_SCHEMA)]).hexdigest())
    assert len(hashes) == 8


def test_damage_is_found_by_the_next_run_and_by_verify(own: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    publish(read_lineage(own), folder)
    assert [artifact["flaws"] for artifact in verify_folder(LocalFolder(folder))] == [[]]
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("60", "61"))
    with pytest.raises(ArtifactDamaged, match=r"README\.md is damaged.*run `finephrase release` again"):
        publish(read_lineage(own), folder)
    (flaws,) = [artifact["flaws"] for artifact in verify_folder(LocalFolder(folder))]
    assert [flaw["file"] for flaw in flaws] == ["README.md"]


@pytest.fixture
def make(tmp_path: Path) -> Any:
    return lambda extra, failed=(): read_lineage(finished_study(tmp_path / "study", extra, failed))


@pytest.mark.slow
def test_what_may_not_be_released_is_refused_with_the_next_action(make: Any, own: Paths, tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match=r"missing section 'release'.*license: odc-by"):
        publish(make(""), tmp_path / "out")
    with pytest.raises(
        ReleaseRefused, match=r"did not pass its audit: writer__topics/faq \(form is 0.97.*despite_audits"
    ):
        publish(make("release: {license: odc-by}\n", ("faq",)), tmp_path / "out")
    study = own.study.read_text()
    own.study.write_text(study.replace("temperature: 0.5", "temperature: 0.6"))
    with pytest.raises(
        ReleaseRefused,
        match=r"topics/faq is stale \(sampling.temperature.*Run `finephrase materialize",
    ):
        publish(read_lineage(own), tmp_path / "out")
    own.study.write_text(study)
    shutil.rmtree(read_lineage(own).audit(read_lineage(own).study.cells[0], "table").folder)
    with pytest.raises(ReleaseRefused, match="audits/writer__topics_audit/table is missing"):
        publish(read_lineage(own), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(lineage: Lineage, own: Paths, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ReleaseRefused, match="is not empty and holds no release"):
        publish(lineage, tmp_path / "mine")
    publish(lineage, tmp_path / "out")
    before = content(tmp_path / "out")
    other = "{license: odc-by, configurations: {qa: ['*/faq']}}"
    own.study.write_text(own.study.read_text().replace("{license: odc-by}", other))
    with pytest.raises(ReleaseRefused, match=r"holds another release .*Choose another --output"):
        publish(read_lineage(own), tmp_path / "out")
    assert content(tmp_path / "out") == before


@pytest.mark.slow
def test_an_audit_that_failed_is_released_for_a_stated_reason_only_and_the_card_says_so(
    make: Any, tmp_path: Path
) -> None:
    reason = "shows what a weak prompt gives"
    lineage = make(f"release: {{license: mit, despite_audits: {{writer__topics/faq: {reason}}}}}\n", ("faq",))
    publish(lineage, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"**Released although it failed its audit** (form is 0.97, required is at least 0.9): {reason}" in card
    waived = release_artifact(lineage, "faq").recipe["datasets"][0]
    assert waived["despite_audit"] is True
    assert "despite_audit" not in release_artifact(lineage, "table").recipe["datasets"][0]


@pytest.mark.slow
def test_rows_that_gates_drop_are_left_out_and_counted(make: Any, tmp_path: Path) -> None:
    lineage = make("release: {license: mit}\n")
    study = lineage.paths.study
    study.write_text(study.read_text().replace("source: topics}", "source: topics, on_failure: drop_rows}"))
    lineage = read_lineage(lineage.paths)
    make_upstream(lineage)
    manifest = publish(lineage, tmp_path / "out")
    assert manifest["configurations"]["faq"]["rows"] == ROWS - 2
    assert not {"doc-1", "doc-40"} & set(pq.read_table(tmp_path / "out" / "faq")["id"].to_pylist())


def test_the_card_has_a_header_for_the_hub_and_all_that_a_reader_needs(out: Path, lineage: Lineage) -> None:
    _, header, body = (out / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(header)
    assert [fields[name] for name in ("license", "language", "size_categories")] == ["odc-by", ["en"], ["n<1K"]]
    assert [one["config_name"] for one in fields["configs"]] == ["faq", "table"]
    for expected in (
        "| `faq` | 60 |",
        "| `writer__topics/faq` | HuggingFaceTB/SmolLM2-135M-Instruct at `c0ffee",
        lineage.prompts["faq"].template.splitlines()[-1],
        '"temperature": 0.5',
        "| loops | 0.5 | at most 0.1 | no | **failed** |",
        "| `writer__topics/faq` | 7,200 | 2.0 | 6.00 | 44% |",
        "| source | files | PSF-2.0 |",
        "| model | HuggingFaceTB/SmolLM2-135M-Instruct | Apache-2.0 |",
        "Source `doc-0`:",
    ):
        assert expected in body, expected


def test_the_card_has_the_size_that_the_hub_knows() -> None:
    sizes = {0: "n<1K", 999: "n<1K", 1_000: "1K<n<10K", 99_999: "10K<n<100K", 1_357_391_368: "1B<n<10B", 10**12: "n>1T"}
    assert {rows: _size(rows) for rows in sizes} == sizes


def test_the_croissant_metadata_describe_the_files_as_they_are(out: Path) -> None:
    described = json.loads((out / "croissant.json").read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    objects = [one for one in described["distribution"] if one["@type"] == "cr:FileObject"]
    assert {one["contentUrl"]: one["sha256"] for one in objects} == {
        str(path.relative_to(out)): sha256_file(path) for path in out.rglob("*.parquet")
    }
    sets = {one["@id"]: one["includes"] for one in described["distribution"] if one["@type"] == "cr:FileSet"}
    for record_set in described["recordSet"]:
        assert [field["source"]["extract"]["column"] for field in record_set["field"]] == SCHEMA.names
        assert {sets[field["source"]["fileSet"]["@id"]] for field in record_set["field"]} == {
            f"{record_set['@id']}/*.parquet"
        }


def test_the_section_is_checked_when_the_study_is_read(make: Any) -> None:
    with pytest.raises(StudyError, match="release: missing field 'license'"):
        make("release: {title: Topics}\n")
    with pytest.raises(StudyError, match=r"configurations.*writer__topics/math.*writer__topics/faq"):
        make("release: {license: mit, configurations: {faq: [writer__topics/math]}}\n")
    with pytest.raises(StudyError, match=r"despite_audits.*topics"):
        make("release: {license: mit, despite_audits: {topics: because}}\n")


def test_configurations_may_join_datasets_under_names_of_their_own(make: Any, tmp_path: Path) -> None:
    lineage = make("release: {license: mit, configurations: {all: ['writer__*'], qa: [writer__topics/faq]}}\n")
    manifest = publish(lineage, tmp_path / "out")
    assert {name: one["rows"] for name, one in manifest["configurations"].items()} == {"all": 2 * ROWS, "qa": ROWS}


def test_the_plan_has_the_release_as_its_last_stage(paths: Paths, own: Paths) -> None:
    shutil.rmtree(own.data / "artifacts" / "release", ignore_errors=True)
    stages = plan(read_lineage(own)).as_json()["stages"]
    assert list(stages)[-1] == "release"
    assert (stages["release"]["partitions"], stages["release"]["documents"]) == (2, 2 * ROWS)
    assert stages["release"]["dollars"] == 0
    assert stages["release"]["disk_bytes"] > 0


@pytest.mark.slow
def test_the_command_reports_as_json_writes_samples_and_refuses_with_status_2(own: Paths, tmp_path: Path) -> None:
    environment = {"FINEPHRASE_DATA": str(own.data)}
    command = ["release", "--study", str(own.study), "--output", str(tmp_path / "out")]
    result = finephrase(*command, "--sample", "3", "--json", **environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["configurations"]["faq"]["rows"] == ROWS
    page = (tmp_path / "out" / "samples.html").read_text()
    assert page.count("<article>") == 6
    assert "http" not in page.replace("http-equiv", "")
    refused = finephrase(*command, "--push", "nowhere", **environment)
    assert (refused.returncode, "write <owner>/<name>" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_the_asset_writes_the_same_files(own: Paths, out: Path, tmp_path: Path) -> None:
    import dagster as dg

    from finephrase_dagster.definitions import build_defs
    from finephrase_dagster.orchestration.jobs import job_of

    shutil.rmtree(own.data / "artifacts" / "release", ignore_errors=True)
    lineage = read_lineage(own)
    definitions = build_defs(lineage)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        job = definitions.resolve_job_def(job_of("release/dataset"))
        assert job.execute_in_process(instance=instance, partition_key="faq").success
    artifact = release_artifact(lineage, "faq")
    assert sha256_file(artifact.folder / "part-00000.parquet") == sha256_file(out / "faq" / "part-00000.parquet")
