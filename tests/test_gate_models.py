"""The models of gates in the recipe of an audit: their content or commit decides, not their path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.gate_model import model_reference
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.spec import Study

COMMIT = "0123456789abcdef" * 2 + "01234567"


def audit_fingerprint(lineage: Lineage, gate: str, model: str | None) -> str:
    """Return the fingerprint of an audit with a model for a gate."""
    fields = lineage.study.model_dump()
    fields["gates"] = {gate: {"model": model}}
    study = Study.model_validate(fields, context=catalogue())
    return Lineage(study=study, paths=lineage.paths).audit(study.cells[0], "faq").fingerprint


@pytest.fixture
def made(lineage: Lineage) -> Lineage:
    """A lineage with a corpus and a generator, from which datasets follow."""
    for artifact in (lineage.source("package_readmes"), lineage.generator("rephraser")):
        artifact.materialize(lambda folder: Contents(files=[], facts={"sampling": {}}))
    lineage.dataset(lineage.study.cells[0], "faq").materialize(lambda folder: Contents(files=[], facts={}))
    return lineage


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true }')
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json"])
def test_another_model_under_the_same_path_is_another_recipe(made: Lineage, model: Path, name: str) -> None:
    before = audit_fingerprint(made, "diversity", str(model))
    file, stamp = model / name, (model / name).stat()
    file.write_bytes(bytes(reversed(file.read_bytes())))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert audit_fingerprint(made, "diversity", str(model)) != before


def test_the_same_model_elsewhere_is_the_same_recipe(made: Lineage, model: Path) -> None:
    before = audit_fingerprint(made, "diversity", str(model))
    os.utime(model / "model.safetensors", (1, 1))
    assert audit_fingerprint(made, "diversity", str(model.rename(model.with_name("moved")))) == before
    assert audit_fingerprint(made, "diversity", None) != before


def test_a_single_file_is_known_by_its_content(made: Lineage, tmp_path: Path) -> None:
    (tmp_path / "lid.ftz").write_bytes(b"one")
    before = audit_fingerprint(made, "language", str(tmp_path / "lid.ftz"))
    (tmp_path / "lid.ftz").write_bytes(b"another")
    assert audit_fingerprint(made, "language", str(tmp_path / "lid.ftz")) != before


def test_a_model_of_the_hub_is_known_by_its_commit(made: Lineage) -> None:
    recipes = {audit_fingerprint(made, "edu_score", f"owner/name@{one}") for one in (COMMIT, COMMIT[::-1])}
    assert len(recipes) == 2
    for model in ("owner/name", "owner/name@main", "/nowhere/model"):
        with pytest.raises(StudyError, match="names no commit, so that another model may take its place; correct the"):
            audit_fingerprint(made, "edu_score", model)


def test_a_reference_names_a_repository_and_its_revision(model: Path) -> None:
    assert model_reference(f"owner/name@{COMMIT}") == ("owner/name", COMMIT)
    assert model_reference("owner/name") == ("owner/name", "main")
    assert model_reference(str(model)) == (str(model), "main")
