"""`finephrase init` writes a study that needs no further edit, and `finephrase schema` accepts what `plan` accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.catalogue import catalogue, read_lineage
from finephrase_dagster.commands.main import app
from finephrase_dagster.commands.schema import study_schema
from finephrase_dagster.study.file import REGISTRIES, StudyError, read_study
from finephrase_dagster.study.loader import load_yaml
from finephrase_dagster.study.paths import REPOSITORY, Paths

NO_STUDIES = (*REGISTRIES.values(), "figures.yaml", "sweep.yaml")
STUDIES = [path for path in sorted((REPOSITORY / "studies").glob("*.yaml")) if path.name not in NO_STUDIES]
SCHEMA = study_schema(catalogue())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SMALL = """
name: small
description: Is one corpus better than the other?
sources: {docs: {kind: embedded, corpus: language_reference}}
mixtures: {alone: {components: {docs: 1}, tokens: 10_000}}
"""


def accepted(fields: object) -> bool:
    return VALIDATOR.is_valid(fields)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_new_study_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("init", "My Study")
    assert result.exit_code == 0, result.output
    study = tmp_path / "My Study" / "study.yaml"
    lineage = read_lineage(Paths(data=tmp_path / "data", study=study))
    assert lineage.study.name == "my_study"
    assert list(lineage.prompts) == ["faq", "key_points"]
    assert lineage.prompts["key_points"].grammar
    assert accepted(load_yaml(study.read_text(encoding="utf-8")))
    assert json.loads((study.parent / "study.schema.json").read_text(encoding="utf-8")) == SCHEMA
    assert study.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=study.schema.json\n")


def test_a_new_study_names_the_columns_of_ones_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = pa.table({"url": ["a"], "doc_id": [7], "content": ["A text that is longer than its address."]})
    pq.write_table(table, tmp_path / "docs.parquet")
    result = run("init", "mine", "--input", "../" + tmp_path.name + "/docs.parquet")
    assert result.exit_code == 0
    assert "Text: the column 'content'; id: 'doc_id'." in result.output
    assert "Next: finephrase preview --study mine/study.yaml --limit 1\n" in result.output
    source = read_study(tmp_path / "mine" / "study.yaml", catalogue()).sources["my_text"]
    assert (source.text_column, source.id_column) == ("content", "doc_id")  # type: ignore[attr-defined]
    assert source.paths == (str(tmp_path / "docs.parquet"),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", ["study.yaml", "prompts/key_points.md"])
def test_nothing_is_overwritten(file: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    result = run("init", str(tmp_path))
    assert result.exit_code == 2
    assert "exists already, and is kept" in result.output
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]
    assert path.read_text(encoding="utf-8") == "mine"


def test_files_without_texts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "numbers.parquet")
    result = run("init", str(tmp_path / "new"), "--input", str(tmp_path / "numbers.parquet"))
    assert result.exit_code == 2
    assert "has no column of texts, only n" in result.output
    assert not (tmp_path / "new").exists()


def test_the_new_prompt_asks_for_a_form_that_its_check_accepts() -> None:
    example = "\n".join(f"- The {word} point of the text is this one." for word in ("first", "second", "third"))
    assert form_flaw("list", example) is None


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_schema_accepts_every_study_as_written_and_in_full(path: Path) -> None:
    assert accepted(load_yaml(path.read_text(encoding="utf-8")))
    assert accepted(yaml.safe_load(path.read_text(encoding="utf-8")))  # 80_000 is a text to other readers
    result = run("expand", "--study", str(path))
    assert accepted(load_yaml(result.stdout))


@pytest.mark.parametrize(
    "change",
    [
        {"mixturs": {}},
        {"sequence": "long"},
        {"evaluation": {"sample": 3}},
        {"students": {"nano": {"layer": 2}}},
        {"cells": [{"generators": "one", "source": "docs"}]},
        {"sources": {"docs": {"kind": "embeded"}}},
        {"prompts": "faq"},
        {"description": None},
    ],
    ids=str,
)
def test_the_schema_refuses_what_a_study_cannot_have(change: dict[str, Any], tmp_path: Path) -> None:
    fields = load_yaml(SMALL) | change
    assert not accepted(fields)
    with pytest.raises(StudyError):
        read_study(write(tmp_path, yaml.safe_dump(fields)), catalogue())


def test_a_study_states_only_what_it_decides(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, SMALL), catalogue())
    assert list(study.student_runs) == ["alone__nano__data0_model0", "alone__nano__data1_model1"]
    assert study.tokenizer is not None
    assert study.tokenizer.sources == ("docs",)
    assert study.evaluation is not None
    assert study.evaluation.items == "embedded"


def test_what_a_study_leaves_out_is_shown_in_full(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    full = write(tmp_path, run("expand", "--study", str(path)).stdout)
    fields = load_yaml(full.read_text(encoding="utf-8"))
    assert fields["tokenizer"] == {"model": "embedded", "vocabulary": 4096, "sources": ["docs"]}
    assert fields["students"]["nano"]["layers"] == 2
    assert fields["sequence"] == 256
    assert read_study(full, catalogue()).student_runs == read_study(write(tmp_path, SMALL), catalogue()).student_runs


def test_a_prompt_of_ones_own_needs_a_name_and_a_template(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "glossary.md").write_text(
        "---\nname: glossary\n---\n[[DOCUMENT]]\n\nExplain its words.", encoding="utf-8"
    )
    cell = "\ngenerators: {embedded: {from: embedded, max_tokens: 99, guided: false}}\n"
    cell += "cells: [{generator: embedded, source: docs}]\nprompts: [faq, ./prompts/glossary.md]\n"
    path = write(tmp_path, SMALL + cell)
    lineage = read_lineage(Paths(data=tmp_path / "data", study=path))
    prompt = lineage.prompts["glossary"]
    assert (prompt.check, prompt.document, prompt.version) == ("prose", "first", 1)
    assert "embedded__docs/glossary" in lineage.study.datasets
    full = load_yaml(run("expand", "--study", str(path)).stdout)
    assert full["prompts"] == ["faq", str(folder / "glossary.md")]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("./prompts/none.md", "there is no file .*none.md; paths of prompts start at the folder of the study file"),
        ("./faq.md", "'faq' is the name of a packaged prompt; rename .*faq.md"),
        ("./Bad-Name.md", "'Bad-Name' is not a valid name"),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_named(entry: str, message: str, tmp_path: Path) -> None:
    for name in ("faq.md", "Bad-Name.md"):
        (tmp_path / name).write_text("[[DOCUMENT]]", encoding="utf-8")
    cell = f"cells: [{{generator: embedded, source: docs}}]\nprompts: [{entry}]\n"
    with pytest.raises(StudyError, match=message):
        read_study(write(tmp_path, SMALL + cell), catalogue())


def test_mistakes_are_named_with_their_lines_and_examples(tmp_path: Path) -> None:
    text = SMALL.replace("corpus: language_reference", "corpus: x").replace(", tokens: 10_000", "")
    with pytest.raises(StudyError) as caught:
        read_study(write(tmp_path, text), catalogue())
    message = str(caught.value)
    assert "line 4: sources.docs.corpus: is 'x'" in message
    assert "line 5: mixtures.alone: missing field 'tokens'. Add it, for example `tokens: 80000`; see docs/" in message
