"""`show`, `trace` and `gc` on a study that is complete, and on copies of it that a test changes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.artifacts.description import describe
from finephrase_dagster.artifacts.garbage import delete, sweep, unneeded
from finephrase_dagster.artifacts.graph import Item, items
from finephrase_dagster.artifacts.item_names import ItemUnknown, select_items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.commands.show import described
from finephrase_dagster.commands.trace import named_row
from finephrase_dagster.results.trace import NothingToTrace, trace_document, trace_mixture
from installation import CELL, Installation, small_study
from test_cli import finephrase

pytestmark = pytest.mark.slow

DATASET = f"synthetic/{CELL}/faq"


def test_every_item_is_described_with_its_inputs_and_dependants(finished: Installation) -> None:
    lineage = finished.lineage
    for item in items(lineage):
        found = describe(lineage, item.name)
        artifact = item.artifact()
        assert (found["state"], found["reasons"]) == ("current", [])
        assert found["fingerprint"] == artifact.fingerprint
        assert found["folder"] == str(artifact.folder)
        assert {each["item"] for each in found["needs"]} == set(item.needs)
        assert {each["item"] for each in found["needed_by"]} == {
            other.name for other in items(lineage) if item.name in other.needs
        }
        assert {file["path"] for file in found["files"]} == {file["path"] for file in artifact.manifest()["files"]}
        assert found["recipe"] == artifact.manifest()["recipe"]
        text = described(found)
        if gates := artifact.manifest().get("gates"):
            shown = [line.split() for line in text.splitlines()]
            for gate in gates:
                verdict = "passed" if gate["passed"] else "failed, only warns"  # the study's audits passed
                measured = f"{gate['value']:.4g}, {gate['bound']} {gate['threshold']:g}"
                assert f"{gate['name']} {verdict} {measured}".split() in shown
            assert f"{artifact.folder}/audit.html" in text
            assert len(shown) < len(gates) + 20
        else:
            assert yaml.safe_load(text.partition("\nrecipe\n")[2]) == found["recipe"]


def test_the_cost_of_a_dataset_is_the_account_of_its_engine(finished: Installation) -> None:
    account = finished.lineage.dataset(finished.lineage.study.cells[0], "faq").manifest()["goodput"]
    assert describe(finished.lineage, DATASET)["cost"]["engine_seconds"] == account["engine_seconds"]


def test_a_stale_item_shows_why_and_what_was_made_before(own: Installation) -> None:
    before = own.lineage.dataset(own.lineage.study.cells[0], "faq")
    fields = small_study()
    fields["generators"]["rephraser"]["sampling"] = {"temperature": 0.25}
    own.write(fields)
    found = describe(own.lineage, DATASET)
    assert found["state"] == "stale"
    assert "sampling.temperature" in " ".join(found["reasons"])
    assert found["folder"] == str(before.folder.resolve())
    assert found["fingerprint"] != before.fingerprint
    assert found["recipe"]["sampling"]["temperature"] == 0.25
    (audit,) = (each for each in found["needed_by"] if each["item"].startswith("audits/"))
    assert audit["state"] == "stale"
    environment = {"FINEPHRASE_DATA": str(own.paths.data)}
    compared = finephrase("results", "compare", "--baseline", "raw", "--study", str(own.study), **environment)
    assert "not compared: faq_and_raw (its scores are out of date): run finephrase materialize" in compared.stdout
    with pytest.raises(ArtifactMissing, match=f"{DATASET} is stale: materialize it first"):
        trace_mixture(own.lineage, "faq_and_raw")


def test_an_unknown_item_is_refused_with_similar_names(finished: Installation) -> None:
    with pytest.raises(ItemUnknown, match=r"no item 'faq_and_raw'\. Did you mean mixtures/mixture/faq_and_raw\?"):
        describe(finished.lineage, "faq_and_raw")
    with pytest.raises(ItemUnknown, match="plan --items"):
        describe(finished.lineage, "zzzz")


def test_items_are_chosen_by_name_asset_stage_or_pattern_with_everything_upstream(finished: Installation) -> None:
    graph = {item.name: item for item in items(finished.lineage)}
    table, corpus, model = f"synthetic/{CELL}/table", "sources/corpus/package_readmes", "generators/model/rephraser"
    assert select_items(graph, [table]) == {table, corpus, model}
    audits = {f"audits/{CELL}_audit/{prompt}" for prompt in ("faq", "table")}
    for pattern in ("audits", f"audits/{CELL}_audit", "audits/*"):
        assert select_items(graph, [pattern]) == {*audits, DATASET, table, corpus, model}
    compared = select_items(graph, ["results/leaderboard"])
    assert {*audits, table} - compared == {f"audits/{CELL}_audit/table", table}, "no mixture has the table"
    with pytest.raises(ItemUnknown, match=r"no item 'audit'\. Did you mean audits"):
        select_items(graph, [DATASET, "audit"])


def test_a_selection_is_materialized_alone_and_a_dry_run_makes_nothing(own: Installation) -> None:
    cell = own.lineage.study.cells[0]
    folders = {f"audits/{CELL}_audit/{prompt}": own.lineage.audit(cell, prompt).folder for prompt in ("faq", "table")}
    for folder in folders.values():
        shutil.rmtree(folder)
    chosen, other = folders
    environment = {"FINEPHRASE_DATA": str(own.paths.data), "DAGSTER_HOME": str(own.root / "dagster_home")}
    dry = finephrase(
        "materialize", "--study", str(own.study), "--dry-run", "--select", "sources", chosen, **environment
    )
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.splitlines()[0] == f"{chosen}: missing"
    assert dry.stdout.splitlines()[-1].startswith("1 partitions would be materialized")
    assert not any(folder.exists() for folder in folders.values())
    outcome, _ = own.materialize({chosen, *own_graph(own)[chosen].needs})
    assert outcome.made == [chosen]
    assert outcome.complete
    assert not folders[other].exists()


def own_graph(installation: Installation) -> dict[str, Item]:
    return {item.name: item for item in items(installation.lineage)}


def test_a_mixture_is_traced_to_its_students_datasets_and_documents(finished: Installation) -> None:
    lineage = finished.lineage
    found = trace_mixture(lineage, "faq_and_raw")
    runs = {name for name, run in lineage.study.student_runs.items() if run.mixture == "faq_and_raw"}
    assert {student["run"]: student["macro"] for student in found["students"]} == {
        run: lineage.scores(run).manifest()["macro"] for run in runs
    }
    origins = {origin["item"]: origin for dataset in found["datasets"] for origin in dataset["origins"]}
    assert origins.keys() == {DATASET, "sources/corpus/package_readmes"}
    assert (origins[DATASET]["prompt"], origins[DATASET]["source"]) == ("faq", "package_readmes")
    assert origins[DATASET]["audit_passed"]
    audit = lineage.audit(lineage.study.cells[0], "faq")
    failed = [gate for gate in audit.manifest()["gates"] if not gate["passed"]]
    assert failed, "a random model writes no faq"
    measured = "; ".join(failed_gates(audit.manifest(), blocking=False).values())
    assert all(f"{gate['name']} is {gate['value']:.3g}" in measured for gate in failed)
    environment = {"FINEPHRASE_DATA": str(finished.paths.data)}
    traced = finephrase("trace", "faq_and_raw", "--study", str(finished.study), **environment)
    assert f"its audit passed; gates that do not block failed: {measured}\n" in traced.stdout
    warning = f"  {CELL}/faq (in faq_and_raw): {measured}\n  Read more, for example: {audit.folder}/audit.html\n"
    for command in (["leaderboard"], ["compare", "--baseline", "raw"]):
        printed = finephrase("results", *command, "--study", str(finished.study), **environment)
        assert f"Text that failed gates which do not block:\n{warning}" in printed.stdout, printed.stderr
    for origin in origins.values():
        file, _, key = origin["first_documents"][0].partition("#")
        assert trace_document(lineage, Path(file), key)["row"]["id"] == key
    with pytest.raises(NothingToTrace, match="no mixture 'nothing'; it has raw, faq_and_raw"):
        trace_mixture(lineage, "nothing")


def windows_with(lineage: Lineage, run: str, tokens: Path, version: str, key: str) -> int:
    """Count the windows of a run that hold a token of a document, token by token."""
    documents = pq.read_table(next(tokens.glob("*.documents.parquet"))).to_pylist()
    owner = [document["id"] for document in documents for _ in range(document["tokens"])]
    order = pq.read_table(lineage.checkpoint(run).folder / "order.parquet")
    starts = order.filter(pc.equal(order["component"].cast("string"), version))["start"].to_pylist()
    return sum(key in owner[start : start + lineage.sequence] for start in starts)


def test_a_document_is_traced_to_what_was_made_of_it_and_to_the_students_that_saw_it(finished: Installation) -> None:
    lineage = finished.lineage.snapshot()
    cell, source = lineage.study.cells[0], lineage.source("package_readmes").folder
    ids = pq.read_table(source / "shard-00000.parquet")["id"].to_pylist()
    for key in ids[:2]:
        found = trace_document(lineage, source, key)
        made = {each["item"] for each in found["rephrased"]}
        assert made == {f"synthetic/{CELL}/faq", f"synthetic/{CELL}/table"}
        faq = trace_document(lineage, lineage.dataset(cell, "faq").folder, key)
        assert faq["items"] == [DATASET]
        assert faq["source"]["row"]["id"] == key
        for traced, component in ((found, "package_readmes"), (faq, f"{CELL}/faq")):
            tokens = lineage.tokens(lineage.study.datasets[component])
            seen = {each["run"]: each["windows"] for each in traced["students"]}
            for run in lineage.study.student_runs:
                assert seen.get(run, 0) == windows_with(lineage, run, tokens.folder, tokens.version, key)
            assert seen


def test_what_cannot_be_traced_is_named(finished: Installation, tmp_path: Path) -> None:
    lineage = finished.lineage
    corpus = lineage.source("package_readmes").folder
    for file, message in (
        (corpus, "no row with the id 'nobody'"),
        (tmp_path, "not a complete dataset"),
        (tmp_path / "x", "does not exist"),
    ):
        with pytest.raises(NothingToTrace, match=message):
            trace_document(lineage, file, "nobody")


def test_artifacts_of_an_earlier_recipe_are_kept_until_the_new_one_is_there(own: Installation) -> None:
    assert unneeded(own.paths.data, [own.lineage]) == []
    cell = own.lineage.study.cells[0]
    earlier = own.lineage.audit(cell, "faq")
    fields = small_study()
    fields["gates"]["form"] = {"threshold": 0, "blocking": False}
    own.write(fields)
    assert own.lineage.audit(cell, "faq").fingerprint != earlier.fingerprint
    assert unneeded(own.paths.data, [own.lineage]) == []
    shutil.copytree(earlier.folder, own.lineage.audit(cell, "faq").folder)  # stands for the new one
    manifest = own.lineage.audit(cell, "faq").folder / "__meta__" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(earlier.fingerprint, own.lineage.audit(cell, "faq").fingerprint))
    assert [each.folder for each in unneeded(own.paths.data, [own.lineage])] == [earlier.folder]


def test_only_what_no_study_needs_is_deleted_and_never_what_is_being_written(own: Installation) -> None:
    data, lineage = own.paths.data, own.lineage
    sources = {name: lineage.source(name).folder for name in lineage.study.sources}
    fields = small_study()
    del fields["sources"]["language_reference"]
    fields["tokenizer"]["sources"] = ["package_readmes"]
    own.write(fields)
    found = unneeded(data, [own.lineage])
    assert sources["language_reference"] in [each.folder for each in found]
    assert sources["package_readmes"] not in [each.folder for each in found]
    assert unneeded(data, [own.lineage, lineage]) == [], "another study needs them"
    (corpus,) = [each for each in found if each.folder == sources["language_reference"]]
    assert corpus.size_bytes == sum(file.stat().st_size for file in corpus.folder.rglob("*") if file.is_file())
    with lineage.source("language_reference").claim():
        assert [is_gone for _, is_gone in delete([corpus])] == [False]
    assert corpus.folder.exists()
    assert [is_gone for _, is_gone in delete([corpus])] == [True]
    assert not corpus.folder.exists()
    label = data / "studies" / "small" / "sources" / "corpus" / "language_reference"
    assert label.is_symlink()
    sweep(data)
    assert not label.is_symlink()


def test_gc_spares_studies_whose_file_was_not_read_until_they_are_forgotten(own: Installation) -> None:
    environment = {"FINEPHRASE_DATA": str(own.paths.data)}
    kept = finephrase("gc", "--keep-days", "0", "--dry-run", "--study", str(own.study), **environment)
    assert (kept.returncode, kept.stdout) == (0, "0 artifacts would be deleted, 0 B\n"), kept.stderr
    refused = finephrase("gc", "--keep-days", "0", **environment)
    assert refused.returncode == 2
    assert "belong to small, whose study file was not read" in refused.stderr
    old = time.time() - 8 * 86_400
    for path in (own.paths.data / "artifacts").rglob("*"):
        os.utime(path, (old, old), follow_symlinks=False)
    done = finephrase("gc", "--forget", "small", **environment)
    assert done.returncode == 0, done.stderr
    assert not list((own.paths.data / "artifacts").glob("*/*"))
    assert "B freed" in done.stdout


def test_gc_spares_what_a_second_study_reuses(own: Installation) -> None:
    own.write({**yaml.safe_load(own.study.read_text(encoding="utf-8")), "name": "second"})
    outcome, _ = own.materialize()
    assert DATASET in outcome.reused
    folder = own.paths.data / "studies" / "second" / DATASET
    (labelled,) = [each for each in unneeded(own.paths.data, []) if each.folder == folder.resolve()]
    assert labelled.studies == ("second", "small")


def test_a_row_is_named_by_a_file_and_an_id_that_both_may_have_number_signs(tmp_path: Path) -> None:
    file = tmp_path / "run #2" / "part.parquet"
    file.parent.mkdir()
    file.touch()
    assert named_row(f"{file}#doc#7") == (file, "doc#7")
    assert named_row(f"{file.parent}#doc") == (file.parent, "doc")
    assert named_row("absent.parquet#doc#7") == (Path("absent.parquet"), "doc#7")
    assert named_row("faq_and_raw") is None
