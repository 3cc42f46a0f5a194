"""Registries: every entry is valid, a new entry needs no other change, and broken registries are refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.study.expand import Expansion
from finephrase_dagster.study.file import REGISTRIES, StudyError, read_registry, read_study
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.study.spec import Source

STUDIES = REPOSITORY / "studies"
GENERATORS, SOURCES = read_registry("generators"), read_registry("sources")
PRODUCTION: dict[str, Any] = yaml.safe_load((STUDIES / "production.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def registries(tmp_path: Path) -> Path:
    """A copy of the registries that a test may change."""
    folder = tmp_path / "registries"
    folder.mkdir()
    for name in REGISTRIES.values():
        shutil.copy(STUDIES / name, folder)
    return folder


def study(folder: Path, **changes: Any) -> Path:
    """The production study with other sections; None takes a section out."""
    path = folder / "study.yaml"
    fields = {name: value for name, value in {**PRODUCTION, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", GENERATORS)
def test_every_registered_generator_is_valid_with_the_fields_of_a_study(name: str) -> None:
    entry = GENERATORS[name]
    sampling = {"seed": 0, **entry.get("sampling", {})}
    generator = Generator.model_validate({"max_tokens": 2048, **entry, "sampling": sampling})
    assert generator.parameters
    assert generator.license
    assert generator.throughput or generator.is_packaged
    assert generator.gpus >= 1


@pytest.mark.parametrize("name", GENERATORS)
def test_a_registered_generator_has_no_field_that_belongs_to_a_study(name: str) -> None:
    assert "max_tokens" not in GENERATORS[name]
    assert "seed" not in GENERATORS[name].get("sampling", {})


@pytest.mark.parametrize("name", SOURCES)
def test_every_registered_source_is_valid(name: str) -> None:
    source: Any = TypeAdapter(Source).validate_python(SOURCES[name], context=catalogue())
    assert source.license


@pytest.mark.parametrize("name", GENERATORS)
def test_naming_a_registered_generator_is_enough_to_use_it(tmp_path: Path, name: str) -> None:
    defaults = {"generators": {"max_tokens": 1024, "sampling": {"seed": 7}}}
    cells = [{"generator": name, "source": "dclm"}]
    read = read_study(study(tmp_path, generators=None, defaults=defaults, cells=cells), catalogue())
    assert read.generators[name].model == GENERATORS[name]["model"]
    assert read.generators[name].sampling.seed == 7
    assert set(read.sources) == {"dclm"}


def test_a_new_registry_entry_needs_no_other_change(tmp_path: Path, registries: Path) -> None:
    with (registries / "generators.yaml").open("a", encoding="utf-8") as file:
        file.write("\nnewcomer:\n  model: /models/newcomer\n  context: 4096\n")
    with (registries / "sources.yaml").open("a", encoding="utf-8") as file:
        file.write('\nmy_web: {kind: files, paths: ["/corpora/web/*.parquet"]}\n')
    path = study(
        tmp_path,
        generators=None,
        defaults={"generators": {"max_tokens": 512, "sampling": {"seed": 0}}},
        cells=[{"generators": ["newcomer", "smollm2_1_7b"], "source": "my_web"}],
    )
    read = read_study(path, catalogue(registries=registries))
    assert read.generators["newcomer"].context == 4096
    assert [cell.name for cell in read.cells] == ["newcomer__my_web", "smollm2_1_7b__my_web"]
    with pytest.raises(StudyError, match=r"(?s)has 2 problems:.*cells\[0\]\.generators: there is no 'newcomer'"):
        read_study(path, catalogue())


def test_a_studys_fields_replace_the_entrys_and_the_entrys_replace_defaults(tmp_path: Path) -> None:
    read = read_study(
        study(
            tmp_path,
            defaults={"generators": {"context": 1024, "max_tokens": 64, "sampling": {"seed": 3, "top_k": 5}}},
            generators={"gemma": {"from": "gemma_3_1b", "engine": {"max_num_seqs": 8}}},
            cells=[{"generator": "gemma", "source": "dclm"}],
        ),
        catalogue(),
    )
    gemma, entry = read.generators["gemma"], GENERATORS["gemma_3_1b"]
    assert (gemma.context, gemma.max_tokens) == (entry["context"], 64)
    assert gemma.sampling.model_dump() == {"temperature": None, "top_p": 0.95, "top_k": 64, "seed": 3}
    assert gemma.engine == {**entry["engine"], "max_num_seqs": 8}


# What an entry of the study says, and what is said of it.
WRONG: dict[str, tuple[Any, str]] = {
    "no entry of that name": ({"from": "smollm"}, r"x\.from: there is no 'smollm'; did you mean .*generators\.yaml"),
    "a list of names": ({"from": ["gemma_3_1b"]}, r"x\.from: is a list; write the name of an entry"),
    "a set of fields": ({"from": {"gemma_3_1b": 1}}, r"x\.from: is a set of fields; write the name"),
    "no name": ({"from": None}, r"x\.from: is empty; write the name"),
    "a number": ({"from": 5}, r"x\.from: is 5; write the name"),
    "an entry that is no entry": ("gemma_3_1b", r"generators\.x: is 'gemma_3_1b'; must be fields"),
    "nothing": (None, r"generators\.x: is empty; must be fields"),
    "fields that do not go with the entry": (
        {"from": "gemma_3_1b", "max_tokens": 99_999, "sampling": {"seed": 0}},
        r"generators\.x: max_tokens 99999 leaves no room",
    ),
    "a flag twice": (
        {"from": "gemma_3_1b", "engine": {"max-num-seqs": 5}, "max_tokens": 5, "sampling": {"seed": 0}},
        "max-num-seqs and max_num_seqs are one flag",
    ),
    "ranks in words": (
        {"from": "gemma_3_1b", "engine": {"tensor_parallel_size": "two"}, "max_tokens": 5, "sampling": {"seed": 0}},
        "tensor_parallel_size is 'two'; it must be a whole number",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_use_of_an_entry_is_refused(tmp_path: Path, case: str) -> None:
    entry, message = WRONG[case]
    path = study(tmp_path, generators={**PRODUCTION["generators"], "x": entry})
    with pytest.raises(StudyError, match=message) as caught:
        read_study(path, catalogue())
    assert str(path) in str(caught.value)


def test_a_field_that_does_not_fit_the_kind_is_reported_with_its_registry_entry(tmp_path: Path) -> None:
    sources = {"dclm": {"from": "dclm", "kind": "files", "paths": ["/corpora"]}}
    path = study(tmp_path, sources=sources, cells=[{"generator": "smollm2_1_7b", "source": "dclm"}])
    with pytest.raises(
        StudyError, match=r"sources\.dclm\.dataset: is not a field of this entry; .*comes from dclm in .*sources"
    ):
        read_study(path, catalogue())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gemma: [", r".*generators\.yaml:1: not valid YAML"),
        ("- gemma", "has no fields; see studies/generators.yaml for an example"),
        ("", "has no fields"),
        (
            "a: 5\nB: {}\n",
            r"(?s)generators\.yaml has 2 problems:.*line 1: a: is 5; write.*line 2: B: is not a valid name",
        ),
        ("a: {}\na: {}\n", r"generators\.yaml:2: .*'a' is defined twice"),
        ("smollm2_1_7b: {model: embeded}\n", r"/generators\.yaml: smollm2_1_7b\.model: 'embeded' has no revision"),
        ("smollm2_1_7b: {contxt: 5}\n", r"/generators\.yaml: smollm2_1_7b: unknown field 'contxt'"),
    ],
)
def test_a_broken_registry_is_refused_by_name(tmp_path: Path, registries: Path, text: str, message: str) -> None:
    (registries / "generators.yaml").write_text(text, encoding="utf-8")
    path = study(tmp_path, generators=None)
    with pytest.raises(StudyError, match=message):
        read_study(path, catalogue(registries=registries))


def test_a_missing_registry_is_refused_by_name(tmp_path: Path, registries: Path) -> None:
    (registries / "sources.yaml").unlink()
    with pytest.raises(StudyError, match=r".*sources\.yaml: no such registry file; create it"):
        read_study(study(tmp_path), catalogue(registries=registries))


def test_sources_that_only_the_tokenizer_names_come_from_the_registry() -> None:
    expansion = Expansion({"tokenizer": {"model": "embedded", "sources": ["cosmopedia"]}}, catalogue())
    assert expansion.problems == []
    assert set(expansion.fields["sources"]) == {"cosmopedia"}


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.integers(), max_size=2)
)
entries = values | st.dictionaries(st.sampled_from([*Generator.model_fields, "from", "other"]), values, max_size=4)


@given(st.dictionaries(st.sampled_from(["smollm2_1_7b", "gemma_3_1b", "x", "A b"]), entries, min_size=1))
def test_whatever_a_registry_holds_the_answer_is_a_study_or_a_study_error(
    tmp_path_factory: pytest.TempPathFactory, held: Mapping[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("registries")
    (folder / "generators.yaml").write_text(yaml.safe_dump(dict(held)), encoding="utf-8")
    shutil.copy(STUDIES / "sources.yaml", folder)
    try:
        read_study(study(folder, generators=None), catalogue(registries=folder))
    except StudyError as error:
        assert str(folder) in str(error)
