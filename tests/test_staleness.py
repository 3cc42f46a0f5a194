"""Staleness: which edit of a finished study makes which stages stale, and nothing else.

The study is complete, with artifacts that were written cheaply. Each row edits the study file or a prompt as a person
would, reads everything again from disk, and compares the stages that are not current.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.artifacts.graph import Item, items, states
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.verification import verify_folder
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.study.paths import REPOSITORY, Paths

STUDY = """
name: small
description: Is it better?
prompts: [faq, table]
sources:
  readmes: {kind: files, paths: [CORPUS], limit: 1000, documents: 100, tokens: 50_000, license: MIT}
  reference: {kind: embedded, corpus: language_reference}
generators:
  writer:
    model: HuggingFaceTB/SmolLM2-135M-Instruct@main
    context: 1024
    max_tokens: 160
    parameters: 135e6
    license: MIT
    sampling: {temperature: 0.5, top_k: 40, seed: 3}
    throughput: {tokens_per_second: 200, basis: a guess}
    engine: {gpu_memory_utilization: 0.9, max_num_seqs: 8, quantization: fp8}
cells:
  - {generator: writer, source: readmes}
  - {generator: writer, source: reference, prompts: [faq]}
gates: {truncated: 0.1}
tokenizer: {model: embedded, vocabulary: 4096, sources: [readmes]}
sequence: 256
mixtures:
  raw: {components: {readmes: 1}, tokens: 160_000}
  mixed: {components: {writer__readmes/faq: 3, readmes: 1}, tokens: 160_000}
students:
  nano: {layers: 2, hidden: 128, ffn: 384, heads: 4, kv_heads: 2, batch_sequences: 2, learning_rate: 2.0e-3,
    final_learning_rate: 2.0e-4, warmup_fraction: 0.1, decay_fraction: 0.3}
seeds: [{data: 0, model: 0}]
evaluation: {items: embedded, tasks: [gsm8k, piqa_cf], shots: 3, samples: 20}
"""

NOTHING: set[str] = set()
BOARD = {"results"}
SCORES = {"evaluation"} | BOARD
STUDENTS = {"training"} | SCORES
MIXTURES = {"mixtures"} | STUDENTS
AUDITED = {"audits"} | MIXTURES
DATASETS = {"synthetic", "tokens"} | AUDITED
EVERYTHING = {"sources"} | DATASETS
GENERATORS = {"generators"} | DATASETS

EDITS: list[tuple[str, list[tuple[str, str]], set[str]]] = [
    # What only people read, names, and how something runs: nothing is stale.
    ("a comment", [("name: small", "# a remark\nname: small")], NOTHING),
    ("an empty line", [("cells:", "\ncells:")], NOTHING),
    ("the study's description", [("Is it better?", "Is it much better?")], NOTHING),
    ("the order of prompts", [("[faq, table]", "[table, faq]")], NOTHING),
    (
        "the order of cells",
        [
            ("cells:\n", "cells:\n  - {generator: writer, source: reference, prompts: [faq]}\n"),
            ("readmes}\n  - {generator: writer, source: reference, prompts: [faq]}\n", "readmes}\n"),
        ],
        NOTHING,
    ),
    (
        "the order of components",
        [("writer__readmes/faq: 3, readmes: 1", "readmes: 1, writer__readmes/faq: 3")],
        NOTHING,
    ),
    (
        "the order of mixtures",
        [
            ("  raw: {components: {readmes: 1}, tokens: 160_000}\n", ""),
            ("students:", "  raw: {components: {readmes: 1}, tokens: 160_000}\nstudents:"),
        ],
        NOTHING,
    ),
    ("weights in other units", [("faq: 3, readmes: 1", "faq: 0.75, readmes: 0.25")], NOTHING),
    ("weights in large units", [("faq: 3, readmes: 1", "faq: 300, readmes: 100")], NOTHING),
    ("a default written out", [("tokens: 160_000}\n  mixed", "tokens: 160_000, seed: 0}\n  mixed")], NOTHING),
    ("the expected documents", [("documents: 100", "documents: 90")], NOTHING),
    ("the expected tokens", [("tokens: 50_000", "tokens: 1e9")], NOTHING),
    ("the license of a source", [("tokens: 50_000, license: MIT", "tokens: 50_000, license: other")], NOTHING),
    ("the license of a generator", [("    license: MIT", "    license: other")], NOTHING),
    ("the parameters of a generator", [("parameters: 135e6", "parameters: 134e6")], NOTHING),
    ("the throughput of a generator", [("tokens_per_second: 200", "tokens_per_second: 300")], NOTHING),
    ("the basis of a throughput", [("basis: a guess", "basis: measured")], NOTHING),
    ("no throughput", [("    throughput: {tokens_per_second: 200, basis: a guess}\n", "")], NOTHING),
    ("a flag of the engine's memory", [("gpu_memory_utilization: 0.9", "gpu_memory_utilization: 0.5")], NOTHING),
    ("a flag of the engine's batches", [("max_num_seqs: 8", "max_num_seqs: 64")], NOTHING),
    ("a flag spelled with dashes", [("max_num_seqs: 8", "max-num-seqs: 8")], NOTHING),
    ("a flag that only logs", [("max_num_seqs: 8", "max_num_seqs: 8, enable_log_requests: true")], NOTHING),
    ("a default of the engine written out", [("max_num_seqs: 8", "max_num_seqs: 8, dtype: auto")], NOTHING),
    ("a flag that only loads", [("max_num_seqs: 8", "max_num_seqs: 8, load_format: safetensors")], NOTHING),
    ("a flag of the engine's execution taken out", [("max_num_seqs: 8, ", "")], NOTHING),
    ("a limit above the corpus", [("limit: 1000", "limit: 2000")], NOTHING),
    ("a limit that the corpus just fits", [("limit: 1000", "limit: 100")], NOTHING),
    ("no limit", [("limit: 1000, ", "")], NOTHING),
    ("the order of tasks", [("[gsm8k, piqa_cf]", "[piqa_cf, gsm8k]")], NOTHING),
    ("a number spelled otherwise", [("context: 1024", "context: 1_024")], NOTHING),
    ("the trainer written out", [("sequence: 256", "sequence: 256\ntrainer: transformers")], NOTHING),
    ("runs written out", [("seeds:", "runs: [{mixtures: ['*'], students: [nano]}]\nseeds:")], NOTHING),
    ("the study's name", [("name: small", "name: tiny")], NOTHING),
    ("a generator's name", [("writer", "author")], NOTHING),
    # The leaderboard shows the names of mixtures, students and corpora, so it is composed again; that costs nothing.
    ("a source's name", [("readmes", "packages")], BOARD),
    ("a student's name", [("nano:", "micro:")], BOARD),
    ("a mixture's name", [("  mixed:", "  blend:")], BOARD),
    # New things are missing, and what exists stays current.
    ("another prompt", [("[faq, table]", "[faq, table, math]")], {"synthetic", "audits", "tokens"}),
    ("another mixture", [("  mixed:", "  other: {components: {reference: 1}, tokens: 160_000}\n  mixed:")], MIXTURES),
    ("another seed", [("model: 0}]", "model: 0}, {data: 1, model: 1}]")], STUDENTS),
    # What determines an output.
    ("a limit below the corpus", [("limit: 1000", "limit: 50")], EVERYTHING),
    ("a condition on rows", [("limit: 1000", "keep: {score: {min: 1}}, limit: 1000")], EVERYTHING),
    ("a sample of rows", [("limit: 1000", "sample: {rate: 0.5}, limit: 1000")], EVERYTHING),
    ("another text column", [("limit: 1000", "text_column: body, limit: 1000")], EVERYTHING),
    ("another id column", [("limit: 1000", "id_column: id, limit: 1000")], EVERYTHING),
    ("another model", [("135M-Instruct@main", "360M-Instruct@main")], GENERATORS),
    ("another revision", [("@main", "@v1")], GENERATORS),
    ("another context", [("context: 1024", "context: 2048")], DATASETS),
    ("more tokens per completion", [("max_tokens: 160", "max_tokens: 200")], DATASETS),
    ("another temperature", [("temperature: 0.5", "temperature: 0.6")], DATASETS),
    ("another top_k", [("top_k: 40", "top_k: 41")], DATASETS),
    ("another top_p", [("top_k: 40", "top_k: 40, top_p: 0.9")], DATASETS),
    ("another seed of sampling", [("seed: 3", "seed: 4")], DATASETS),
    ("the raw completions", [("max_tokens: 160", "max_tokens: 160\n    keep_raw: true")], DATASETS),
    ("a rule for documents", [("gates: {truncated", "requires: {faq: 3 quantities}\ngates: {truncated")], DATASETS),
    ("a flag that changes logits", [("quantization: fp8", "quantization: awq")], DATASETS),
    ("a threshold", [("truncated: 0.1", "truncated: 0.2")], AUDITED),
    (
        "rows that fail are dropped",
        [("{generator: writer, source: readmes}", "{generator: writer, source: readmes, on_failure: drop_rows}")],
        {"tokens"} | AUDITED,
    ),
    ("a second rollout", [("max_tokens: 160", "max_tokens: 160\n    rollouts: 2")], DATASETS),
    ("a gate's setting", [("truncated: 0.1", "common_opening: {characters: 30}")], AUDITED),
    ("a larger vocabulary", [("vocabulary: 4096", "vocabulary: 8192")], {"tokens"} | MIXTURES),
    ("a tokenizer of another source", [("sources: [readmes]", "sources: [reference]")], {"tokens"} | MIXTURES),
    ("a longer sequence", [("sequence: 256", "sequence: 512")], MIXTURES),
    ("another weight", [("faq: 3", "faq: 2")], MIXTURES),
    (
        "a larger budget",
        [("readmes: 1}, tokens: 160_000}\nstudents", "readmes: 1}, tokens: 170_000}\nstudents")],
        MIXTURES,
    ),
    ("another seed of a mixture", [("tokens: 160_000}\nstudents", "tokens: 160_000, seed: 1}\nstudents")], MIXTURES),
    (
        "another component",
        [("raw: {components: {readmes: 1}", "raw: {components: {readmes: 1, reference: 1}")],
        MIXTURES,
    ),
    ("another depth", [("layers: 2", "layers: 3")], STUDENTS),
    ("another width", [("ffn: 384", "ffn: 256")], STUDENTS),
    ("another batch", [("batch_sequences: 2", "batch_sequences: 4")], STUDENTS),
    ("another learning rate", [("learning_rate: 2.0e-3", "learning_rate: 1.0e-3")], STUDENTS),
    ("another schedule", [("decay_fraction: 0.3", "decay_fraction: 0.2")], STUDENTS),
    ("another data seed", [("data: 0", "data: 1")], STUDENTS),
    ("another model seed", [("model: 0}", "model: 1}")], STUDENTS),
    ("looks on the way", [("shots: 3", "shots: 3, every: 10")], STUDENTS),
    ("another trainer", [("sequence: 256", "sequence: 256\ntrainer: nanotron")], STUDENTS),
    ("a task added", [("[gsm8k, piqa_cf]", "[gsm8k, piqa_cf, drop]")], AUDITED),
    ("a task taken out", [("[gsm8k, piqa_cf]", "[gsm8k]")], AUDITED),
    ("fewer shots", [("shots: 3", "shots: 2")], SCORES),
    ("more samples", [("samples: 20", "samples: 30")], AUDITED),
    ("another backend", [("samples: 20", "samples: 20, backend: vllm")], SCORES),
]

PROMPT_EDITS: list[tuple[str, str, str, set[str]]] = [
    ("the description of a prompt", "description: ", "description: Shown. ", NOTHING),
    ("the origin of a prompt", "origin: ", "origin: in truth ", NOTHING),
    ("the number of a prompt", "version: ", "version: 7", NOTHING),
    ("the family of a prompt", "family: own", "family: other", NOTHING),
    ("spaces at the end of a prompt's lines", "\n\n", "  \n\n", NOTHING),
    ("an empty line at the end of a prompt", "[[DOCUMENT]]", "\n[[DOCUMENT]]", NOTHING),
    ("the form that an audit checks", "check: faq", "check: prose", AUDITED),
    ("what a prompt requires", "check: faq", "check: faq\nrequires: quantities", DATASETS),
    ("the text of a prompt", "curious", "patient", DATASETS),
]


EQUAL = [("top_k: 40", "top_k: 0"), ("top_k: 40", "top_k: -1")]
"""Two ways to write one sampling."""


FACTS: dict[str, dict[str, Any]] = {
    "sources": {"rows": 100, "order": "a"},
    "generators": {"sampling": {"temperature": 1.0}},
    "audits": {"passed": True, "gates": []},
    "evaluation": {"macro": 0.5},
}


def complete(lineage: Lineage) -> None:
    """Publish every artifact with the figures that later recipes contain."""
    for item in items(lineage.snapshot()):

        def make(folder: Path, of: Item = item) -> Contents:
            (folder / "content.txt").write_text(of.name)
            return Contents(files=[folder / "content.txt"], facts=FACTS.get(of.stage, {}))

        item.artifact().materialize(make)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A complete study; no test may change its data."""
    root = tmp_path_factory.mktemp("study")
    corpus = root / "corpus.jsonl"
    corpus.write_text('{"text": "one"}\n')
    (root / "study.yaml").write_text(STUDY.replace("CORPUS", str(corpus)))
    paths = Paths(data=root / "data", study=root / "study.yaml", prompts=REPOSITORY / "prompts")
    complete(read_lineage(paths))
    return paths


def stale_stages(paths: Paths) -> set[str]:
    """Return the stages with an item that is not current; the leaderboard's is `results`."""
    graph = {item.name: item for item in items(read_lineage(paths).snapshot())}
    return {graph[name].key.path[0] for name, state in states(graph).items() if state.status != "current"}


@pytest.mark.parametrize(
    ("limit", "sources"), [("limit: 101", {"sources"}), ("", {"sources"}), ("limit: 100", NOTHING)]
)
def test_a_corpus_that_reached_its_limit_is_made_anew_with_another_one(
    tmp_path: Path, limit: str, sources: set[str]
) -> None:
    paths = Paths(data=tmp_path / "data", study=tmp_path / "study.yaml", prompts=REPOSITORY / "prompts")
    (tmp_path / "corpus.jsonl").write_text('{"text": "one"}\n')
    study = STUDY.replace("CORPUS", str(tmp_path / "corpus.jsonl"))
    paths.study.write_text(study.replace("limit: 1000", "limit: 100"))
    complete(read_lineage(paths))
    paths.study.write_text(study.replace("limit: 1000,", f"{limit}," if limit else ""))
    assert stale_stages(paths) & {"sources"} == sources


def edited(text: str, edits: list[tuple[str, str]]) -> str:
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_finished_study_is_current(finished: Paths) -> None:
    assert stale_stages(finished) == NOTHING


@pytest.mark.parametrize(("edits", "expected"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_an_edit_of_the_study_makes_stale_what_depends_on_it_and_nothing_else(
    edits: list[tuple[str, str]], expected: set[str], finished: Paths, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(edited(finished.study.read_text(), edits))
    assert stale_stages(replace(finished, study=study)) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"), [row[1:] for row in PROMPT_EDITS], ids=[r[0] for r in PROMPT_EDITS]
)
def test_an_edit_of_a_prompt_makes_stale_what_is_sent_otherwise_and_nothing_else(
    old: str, new: str, expected: set[str], finished: Paths, tmp_path: Path
) -> None:
    prompts = Path(shutil.copytree(finished.prompts, tmp_path / "prompts"))
    path = prompts / "faq.md"
    path.write_text(edited(path.read_text(), [(old, new)]))
    assert stale_stages(replace(finished, prompts=prompts)) == expected


def test_two_ways_to_switch_top_k_off_are_one_recipe(finished: Paths, tmp_path: Path) -> None:
    fingerprints = set()
    for edit in EQUAL:
        study = tmp_path / "study.yaml"
        study.write_text(edited(finished.study.read_text(), [edit]))
        lineage = read_lineage(replace(finished, study=study))
        fingerprints.add(lineage.dataset(lineage.study.cells[0], "faq").fingerprint)
    assert len(fingerprints) == 1


def test_a_moved_data_folder_and_a_copied_study_make_nothing_stale(finished: Paths, tmp_path: Path) -> None:
    shutil.copytree(finished.data, tmp_path / "moved", symlinks=True)
    study = Path(shutil.copy(finished.study, tmp_path / "other.yaml"))
    assert stale_stages(replace(finished, data=tmp_path / "moved", study=study)) == NOTHING


@pytest.mark.slow
def test_two_studies_in_one_data_folder_do_not_see_each_other_as_stale(finished: Paths, tmp_path: Path) -> None:
    data = Path(shutil.copytree(finished.data, tmp_path / "data", symlinks=True))
    study = tmp_path / "study.yaml"
    study.write_text(edited(finished.study.read_text(), [("name: small", "name: hot"), ("0.5", "0.9")]))
    other = replace(finished, data=data, study=study)
    graph = {item.name: item for item in items(read_lineage(other).snapshot())}
    assert "stale" not in {state.status for state in states(graph).values()}
    complete(read_lineage(other))
    assert stale_stages(other) == stale_stages(replace(finished, data=data)) == NOTHING


def test_a_renamed_study_is_labelled_anew_and_nothing_is_made(finished: Paths, tmp_path: Path) -> None:
    data = Path(shutil.copytree(finished.data, tmp_path / "data", symlinks=True))
    made = sorted((data / "artifacts").rglob("*"))
    study = tmp_path / "study.yaml"
    study.write_text(edited(finished.study.read_text(), [("name: small", "name: tiny"), ("writer", "author")]))
    lineage = read_lineage(replace(finished, data=data, study=study))
    complete(lineage)
    assert sorted((data / "artifacts").rglob("*")) == made
    label = data / "studies" / "tiny" / "synthetic" / "author__readmes" / "faq"
    assert label.resolve() == lineage.dataset(lineage.study.cells[0], "faq").folder.resolve()


def test_every_artifact_is_verified_once_however_many_names_it_has(finished: Paths) -> None:
    artifacts = len(list((finished.data / "artifacts").glob("*/*")))
    for folder in (finished.data, finished.data / "studies" / "small"):
        assert len(list(verify_folder(LocalFolder(folder)))) == artifacts


def code_versions(paths: Paths, edits: list[tuple[str, str]], study: Path) -> dict[str, str | None]:
    """Return the code version that Dagster sees of every asset of the edited study."""
    study.write_text(edited(paths.study.read_text(), edits))
    graph = build_defs(read_lineage(replace(paths, study=study))).resolve_asset_graph()
    return {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()}


CELL = {"synthetic/writer__readmes", "audits/writer__readmes_audit", "tokens/writer__readmes_tokens"}
CELLS = CELL | {name.replace("readmes", "reference") for name in CELL}
NEW_CODE: list[tuple[str, set[str]]] = [
    ("a comment", NOTHING),
    ("the study's description", NOTHING),
    ("the license of a generator", NOTHING),
    ("the throughput of a generator", NOTHING),
    ("a flag of the engine's memory", NOTHING),
    ("the order of tasks", NOTHING),
    ("the license of a source", NOTHING),
    ("a limit above the corpus", NOTHING),
    ("the study's name", NOTHING),
    ("another text column", CELL),
    ("a sample of rows", CELL),
    ("another revision", CELLS),
    ("another temperature", CELLS),
    ("more tokens per completion", CELLS),
    ("a flag that changes logits", CELLS),
    ("a threshold", {"audits/writer__readmes_audit", "audits/writer__reference_audit"}),
    (
        "a task added",
        {"evaluation/benchmark_scores", "audits/writer__readmes_audit", "audits/writer__reference_audit"},
    ),
    ("another backend", {"evaluation/benchmark_scores"}),
]


@pytest.mark.parametrize(("edit", "expected"), NEW_CODE, ids=[row[0] for row in NEW_CODE])
@pytest.mark.slow
def test_a_setting_that_all_partitions_of_an_asset_share_is_part_of_its_code_version(
    edit: str, expected: set[str], finished: Paths, tmp_path: Path
) -> None:
    edits = next(row[1] for row in EDITS if row[0] == edit)
    before = code_versions(finished, [], tmp_path / "before.yaml")
    after = code_versions(finished, edits, tmp_path / "after.yaml")
    assert {name for name in after if after[name] != before[name]} == expected
