"""The lineage: which artifacts depend on which, by their recipes alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, Contents, labelled_manifest
from finephrase_dagster.artifacts.graph import items, state
from finephrase_dagster.artifacts.key import DATASET, MIXTURE, STAGES, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue, read_lineage
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.study.spec import Study


def complete(lineage: Lineage) -> None:
    """Publish every artifact of a study, upstream first, with its name as content."""
    for item in items(lineage.snapshot()):

        def make(folder: Path, name: str = item.name) -> Contents:
            (folder / "content.txt").write_text(name)
            return Contents(files=[folder / "content.txt"], facts={"sampling": {"temperature": 1.0}})

        item.artifact().materialize(make)


def states(lineage: Lineage) -> dict[str, str]:
    return {item.name: state(item).status for item in items(lineage.snapshot())}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Return a copy of the project's prompts that a test may edit."""
    return Path(shutil.copytree(REPOSITORY / "prompts", tmp_path / "prompts"))


@pytest.fixture
def completed(lineage: Lineage, prompts: Path, tmp_path: Path) -> Lineage:
    paths = Paths(data=tmp_path / "data", study=lineage.paths.study, prompts=prompts)
    made = Lineage(study=lineage.study, paths=paths)
    complete(made)
    return made


def edited(lineage: Lineage, **changes: object) -> Lineage:
    fields = lineage.study.model_dump() | changes
    return Lineage(study=Study.model_validate(fields, context=catalogue()), paths=lineage.paths)


def read_with_items(lineage: Lineage, folder: Path, tmp_path: Path) -> Lineage:
    """Read the study again with its benchmark items in another folder."""
    path = tmp_path / "study.yaml"
    path.write_text(lineage.paths.study.read_text(encoding="utf-8").replace("items: embedded", f"items: {folder}"))
    return read_lineage(Paths(data=lineage.paths.data, study=path, prompts=lineage.paths.prompts))


def test_a_missing_folder_of_benchmark_items_is_refused_before_anything_starts(
    lineage: Lineage, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=r"study.yaml: evaluation.items: there is no folder /nowhere"):
        read_with_items(lineage, Path("/nowhere"), tmp_path)


def test_a_folder_of_items_that_lacks_a_task_is_refused_before_anything_is_trained(
    lineage: Lineage, tmp_path: Path
) -> None:
    items = tmp_path / "items"
    for task in lineage.evaluation.tasks:
        if task != "gsm8k":
            (items / benchmarks()[task].folder).mkdir(parents=True)
    with pytest.raises(StudyError, match=r"evaluation.items: .* has no folder gsm8k. Add the items of each task, or"):
        read_with_items(lineage, items, tmp_path)
    (items / "gsm8k").mkdir()
    read_with_items(lineage, items, tmp_path)


def test_items_come_upstream_first_and_have_unique_names(lineage: Lineage) -> None:
    result = list(items(lineage))
    assert len({item.name for item in result}) == len(result)
    stages = [STAGES.index(item.stage) for item in result]
    assert stages == sorted(stages)


def test_at_first_only_the_sources_and_the_model_can_be_made(lineage: Lineage) -> None:
    result = states(lineage)
    assert {name for name, status in result.items() if status == "missing"} == {
        "sources/corpus/package_readmes",
        "sources/corpus/language_reference",
        "generators/model/rephraser",
        "generators/model/free",
    }
    assert set(result.values()) == {"missing", "waiting"}


def test_an_artifact_with_incomplete_inputs_raises_an_error_that_names_one(lineage: Lineage) -> None:
    with pytest.raises(ArtifactMissing, match="sources/corpus/package_readmes does not exist"):
        lineage.dataset(lineage.study.cells[0], "faq")


def test_a_complete_study_is_current(completed: Lineage) -> None:
    assert set(states(completed).values()) == {"current"}


def test_editing_a_prompt_makes_its_partitions_stale_and_nothing_else(completed: Lineage, prompts: Path) -> None:
    path = prompts / "faq.md"
    path.write_text(path.read_text().replace("curious", "patient"))
    after = Lineage(study=completed.study, paths=completed.paths)
    result = {name: status for name, status in states(after).items() if status != "current"}
    assert {name for name, status in result.items() if status == "stale"} == {
        "synthetic/rephraser__package_readmes/faq",
        "synthetic/rephraser__language_reference/faq",
        "synthetic/free__package_readmes/faq",
    }
    waiting = {name for name, status in result.items() if status == "waiting"}
    assert not [name for name in waiting if "readmes_raw" in name or "reference_raw" in name]
    assert {"mixtures/mixture/faq_and_raw", "mixtures/mixture/all_formats_and_raw"} <= waiting


def test_a_stale_item_names_the_field_that_changed(completed: Lineage, prompts: Path) -> None:
    path = prompts / "faq.md"
    path.write_text(path.read_text().replace("curious", "patient"))
    after = Lineage(study=completed.study, paths=completed.paths)
    item = next(item for item in items(after) if item.name == "synthetic/rephraser__package_readmes/faq")
    assert [reason.split(":")[0] for reason in state(item).reasons] == ["prompt.template"]


def test_the_description_of_a_prompt_is_not_part_of_a_recipe(completed: Lineage, prompts: Path) -> None:
    path = prompts / "faq.md"
    path.write_text(path.read_text().replace("description: Ordered", "description: Sorted"))
    assert set(states(Lineage(study=completed.study, paths=completed.paths)).values()) == {"current"}


def test_after_a_return_to_an_earlier_recipe_its_artifacts_are_current(completed: Lineage, prompts: Path) -> None:
    path = prompts / "faq.md"
    before = path.read_text()
    path.write_text(before.replace("curious", "patient"))
    complete(Lineage(study=completed.study, paths=completed.paths))
    path.write_text(before)
    assert set(states(Lineage(study=completed.study, paths=completed.paths)).values()) == {"current"}


def test_execution_settings_are_not_part_of_a_recipe(completed: Lineage) -> None:
    generators = completed.study.model_dump()["generators"]
    generators["rephraser"]["engine"] = {"max_num_seqs": 7}
    assert set(states(edited(completed, generators=generators)).values()) == {"current"}


def test_a_new_name_or_description_of_the_study_changes_nothing(completed: Lineage) -> None:
    assert set(states(edited(completed, name="other", description="another")).values()) == {"current"}


def test_a_threshold_that_changes_no_outcome_leaves_the_mixtures_current(completed: Lineage) -> None:
    gates = completed.study.model_dump()["gates"] | {"empty": 0.01}
    after = edited(completed, gates=gates)
    for item in items(after):
        if item.stage == "audits":
            verdict = item.artifact()

            def make(folder: Path, of: Artifact = verdict) -> Contents:
                (folder / "content.txt").write_text("another figure")
                earlier = labelled_manifest(completed.labels / of.name)
                assert earlier is not None
                version = earlier["version"]
                return Contents(files=[folder / "content.txt"], facts={}, version=version)

            verdict.materialize(make)
    assert set(states(after).values()) == {"current"}


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(field=st.sampled_from(["tokens", "seed"]), value=st.integers(1_000, 10**6))
def test_the_budget_and_seed_of_a_mixture_affect_only_its_students(
    field: str, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = Paths(data=tmp_path_factory.mktemp("data"), study=REPOSITORY / "studies" / "demo.yaml")
    before = read_lineage(paths)
    complete(before)
    mixtures = before.study.model_dump()["mixtures"]
    unchanged = mixtures["readmes_raw"][field] == value
    mixtures["readmes_raw"][field] = value
    changed = {name for name, status in states(edited(before, mixtures=mixtures)).items() if status != "current"}
    expected = {name for name in states(before) if "readmes_raw" in name} | {"results/leaderboard"}
    assert changed == (set() if unchanged else expected)


def test_a_key_has_the_fields_of_its_kind_and_no_others() -> None:
    result = ItemKey(kind=DATASET, generator="tiny", source="readmes", prompt="faq")
    assert (result.stage, result.cell, result.asset, result.partition) == (
        "synthetic",
        "tiny__readmes",
        "synthetic/tiny__readmes",
        "faq",
    )
    with pytest.raises(ValueError, match=r"mixtures/mixture needs \['mixture'\], and has \['run'\]"):
        ItemKey(kind=MIXTURE, run="raw")


def test_every_item_carries_its_cell_prompt_mixture_and_run(lineage: Lineage) -> None:
    study = lineage.study
    for item in items(lineage.snapshot()):
        key = item.key
        assert key.stage in STAGES
        assert key.cell is None or key.cell in {cell.name for cell in study.cells}
        assert key.prompt is None or key.prompt in study.prompts
        assert key.mixture is None or key.mixture in study.mixtures
        assert key.run is None or key.run in study.student_runs
