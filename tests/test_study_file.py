"""The study file: what is right loads, what is wrong is refused with file, field and remedy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.study.file import StudyError, read_study
from finephrase_dagster.study.places import REPOSITORY
from finephrase_dagster.study.spec import Study

DEMO = REPOSITORY / "studies" / "demo.yaml"
FIELDS: dict[str, Any] = yaml.safe_load(DEMO.read_text(encoding="utf-8"))


def written(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    fields = copy.deepcopy(FIELDS)
    change(fields)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return path


def test_the_demo_study_lists_five_mixtures_and_ten_students() -> None:
    study = read_study(DEMO)
    assert len(study.mixtures) == 5
    assert len(study.student_runs) == 10
    assert study.prompts == ("faq", "math", "table", "tutorial")
    assert next(iter(study.student_runs)) == "readmes_raw__nano__data0_model0"


def test_specs_are_frozen() -> None:
    study = read_study(DEMO)
    with pytest.raises(ValueError, match="frozen"):
        study.mixtures["readmes_raw"].tokens = 1  # type: ignore[misc]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown prompt": (lambda f: f["cells"][0].update(prompts=["poem"]), r"cells\[0\].prompts: there is no 'poem'"),
    "a prompt listed twice": (lambda f: f["prompts"].append("faq"), "prompts: faq stands more than once"),
    "a cell listed twice": (lambda f: f["cells"].append(f["cells"][0]), "cells: .* stands more than once"),
    "an unknown source": (lambda f: f["cells"][0].update(source="web"), r"cells\[0\].source: there is no 'web'"),
    "an unknown dataset": (
        lambda f: f["mixtures"]["readmes_raw"]["components"].update(web=1),
        "mixtures.readmes_raw.components: there is no 'web'",
    ),
    "a weight of zero": (
        lambda f: f["mixtures"]["readmes_raw"]["components"].update(package_readmes=0),
        "mixtures.readmes_raw.components.package_readmes: .* greater than 0",
    ),
    "a missing field": (lambda f: f.pop("gates"), "gates: is missing; add it"),
    "a misspelt field": (lambda f: f.update(seads=[]), "seads: is not a field here; remove it or correct its name"),
    "an unknown task": (lambda f: f["evaluation"]["tasks"].append("chess"), "evaluation.tasks"),
    "a name that leaves the folder": (lambda f: f["mixtures"].update({"../up": f["mixtures"]["readmes_raw"]}), "../up"),
    "a model without a revision": (
        lambda f: f["generators"]["rephraser"].update(model="HuggingFaceTB/SmolLM2-135M-Instruct"),
        "has no revision; write HuggingFaceTB/SmolLM2-135M-Instruct@<commit>",
    ),
    "an answer longer than the context": (
        lambda f: f["generators"]["rephraser"].update(max_tokens=4096),
        "leaves no room for a prompt",
    ),
    "heads that do not divide": (lambda f: f["students"]["nano"].update(heads=3), "must be an even multiple of heads"),
    "a generator's heads that do not divide": (
        lambda f: f["generators"]["rephraser"]["embedded"].update(heads=3),
        "generators.rephraser.embedded: hidden 256 must be an even multiple of heads 3",
    ),
    "no seeds": (lambda f: f.update(seeds=[]), "seeds"),
    "text where a number belongs": (lambda f: f.update(sequence="long"), "sequence"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_study_names_file_field_and_remedy(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    path = written(tmp_path, change)
    with pytest.raises(StudyError, match=message) as caught:
        read_study(path)
    assert str(path) in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["sequence"] = 0
        fields["seads"] = 1

    with pytest.raises(StudyError, match="wrong in 2 places"):
        read_study(written(tmp_path, change))


@pytest.mark.parametrize("text", ["", "- a list", "name: [", "name: a\nname: b\n", "\ttabs: 1"])
def test_what_is_not_a_study_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=str(path)):
        read_study(path)


def test_a_mixture_defined_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(DEMO.read_text().replace("  reference_raw:", "  readmes_raw:"))
    with pytest.raises(StudyError, match=r"study.yaml:\d+: .*'readmes_raw' is defined twice"):
        read_study(path)


def test_a_missing_study_lists_those_there_are() -> None:
    with pytest.raises(StudyError, match=r"no such file; the project has studies/demo\.yaml.*FINEPHRASE_STUDY"):
        read_study(DEMO.with_name("nothing.yaml"))


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(field=st.sampled_from(sorted(FIELDS)), value=leaves | st.lists(leaves, max_size=2))
def test_whatever_stands_in_a_field_the_answer_is_a_study_or_a_study_error(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(yaml.safe_dump({**FIELDS, field: value}), encoding="utf-8")
    try:
        assert isinstance(read_study(path), Study)
    except StudyError as error:
        assert str(path) in str(error)


@given(st.dictionaries(st.sampled_from(["package_readmes", "language_reference"]), st.floats(0.01, 100), min_size=1))
def test_weights_are_shares(components: dict[str, float]) -> None:
    fields = copy.deepcopy(FIELDS)
    fields["mixtures"]["readmes_raw"]["components"] = components
    weights = Study.model_validate(fields).mixtures["readmes_raw"].weights
    assert sum(weights.values()) == pytest.approx(1)
