"""Source filtering: documents without what a prompt requires are skipped, counted, and not paid for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.recipe import dataset_recipe
from finephrase_dagster.audit.audit import Audit
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.corpora.eligibility import MEASURES, not_eligible
from finephrase_dagster.plan.plan import plan
from finephrase_dagster.rephrase.job import build_job, execute
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.study.prompt import REQUIRED, PromptError, parse_requires, read_prompt
from rephrase_parts import LocalServer, completion, local_server, write_corpus

NUMBERS = "It had 12 rooms, 340 windows and cost $5,600."
PLAIN = "Nobody counted the rooms, the windows or the doors of that house."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NUMBERS, None),
        ("It had twelve rooms, 340 windows and ninety-nine doors.", None),
        (PLAIN, "not eligible: fewer than 3 quantities"),
        ("12 rooms, 12 doors, 12 windows", "not eligible: fewer than 3 quantities"),
        ("Python 3.11.2 replaced 3.10.4 and 3.9.18.", "not eligible: fewer than 3 quantities"),
        ("", "not eligible: fewer than 3 quantities"),
    ],
    ids=["digits", "words", "none", "one number", "versions", "empty"],
)
def test_a_document_with_too_few_different_quantities_is_not_eligible(text: str, reason: str | None) -> None:
    assert not_eligible(text, {"quantities": 3}) == reason


def test_every_rule_must_hold_and_the_first_that_does_not_is_the_reason() -> None:
    assert not_eligible("one word after another", {"words": 4}) is None
    assert not_eligible(NUMBERS, {"quantities": 3, "words": 50}) == "not eligible: fewer than 50 words"
    assert not_eligible(PLAIN, {}) is None
    assert MEASURES.keys() == REQUIRED.keys()


@pytest.mark.parametrize("text", ["3 numbers", "0 words", "-1 words", "", "words, words", "quantities 3", "3.5 words"])
def test_a_rule_that_cannot_be_read_is_refused_with_an_example(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write for example '3 quantities'"):
        parse_requires(text)
    path = tmp_path / "sums.md"
    path.write_text(f"---\nname: sums\nrequires: '{text}'\n---\n[[DOCUMENT]]\n")
    if text:
        with pytest.raises(PromptError, match=r"sums\.md:3: requires: .*write for example '3 quantities'"):
            read_prompt(path)


def test_a_rule_is_written_in_several_ways_and_is_one_recipe(tmp_path: Path) -> None:
    recipes = []
    for rule in ("words, 3 quantities", "quantities,100  words", "3 quantities, 100 words"):
        path = tmp_path / "sums.md"
        path.write_text(f"---\nname: sums\nrequires: {rule}\n---\n[[DOCUMENT]]\n")
        recipes.append(recipe_of(path))
    assert recipes[0] == recipes[1] == recipes[2]
    assert recipes[0]["requires"] == {"quantities": 3, "words": 100}


def recipe_of(path: Path) -> dict[str, Any]:
    sampling = {"temperature": 1.0}
    fields: dict[str, Any] = {"model": "m", "engine": {}, "sampling": sampling, "context": 1, "max_tokens": 1}
    return dataset_recipe(rows="r", prompt=read_prompt(path), **fields)


def test_the_fingerprint_of_a_prompt_without_rules_is_what_it_was(tmp_path: Path) -> None:
    recipe = recipe_of(REPOSITORY / "prompts" / "math.md")
    assert not {"requires", "eligibility"} & recipe.keys()
    assert fingerprint(recipe) != fingerprint({**recipe, "requires": {"quantities": 3}, "eligibility": "1"})


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as running:
        running.answer = lambda request: completion()
        yield running


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    path = tmp_path / "sums.md"
    path.write_text("---\nname: sums\nrequires: 3 quantities\n---\n[[DOCUMENT]]\n\nMake a sum of it.\n")
    return path


def test_documents_that_are_not_eligible_are_skipped_counted_and_not_sent(
    tmp_path: Path, prompt: Path, server: LocalServer
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [[("a", NUMBERS), ("b", PLAIN), ("c", NUMBERS), ("d", "")]])
    files, out = [str(corpus / "shard-00000.parquet")], str(tmp_path / "out")
    options: dict[str, Any] = {"output": out, "endpoints": [server.url], "model": "tiny", "context": 1024}
    job = build_job(files, prompts=[str(prompt), "faq"], max_tokens=24, **options)
    manifests = execute(job)
    sums, faq = manifests["sums"], manifests["faq"]
    assert [sums[name] for name in ("rows_in", "completed", "skipped", "failed", "not_eligible")] == [4, 2, 2, 0, 1]
    assert (faq["completed"], faq.get("not_eligible")) == (3, None)
    assert sums["reasons"] == {"skipped: not eligible: fewer than 3 quantities": 1, "skipped: text is empty": 1}
    rejected = pq.read_table(tmp_path / "out" / "sums" / "__meta__" / "rejected.parquet").to_pylist()
    assert rejected[0] == {"id": "b", "status": "skipped", "reason": "not eligible: fewer than 3 quantities"}
    assert len(server.requests) == 5
    assert execute(job) == manifests
    assert len(server.requests) == 5

    with Audit(tmp_path / "out" / "sums") as audit:
        completed = next(gate for gate in audit.report.gates if gate.name == "completed")
    assert completed.value == pytest.approx(2 / 3)
    assert "2 of 3 documents have a completion; 1 others are not eligible" in completed.detail


def study(tmp_path: Path, extra: str) -> Paths:
    source = tmp_path / "corpus.jsonl"
    rows = [{"id": str(n), "text": NUMBERS if n % 4 == 0 else PLAIN} for n in range(40)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "study.yaml").write_text(
        f"name: filtered\ndescription: Less.\nprompts: [math]\nsources:\n  mine: {{kind: files, paths: [{source}], "
        "documents: 40, tokens: 800}\ngenerators: {small: {model: embedded, context: 720, max_tokens: 288}}\n"
        "cells: [{generator: small, source: mine}]\n" + extra
    )
    return Paths(data=tmp_path / "data", study=tmp_path / "study.yaml", prompts=REPOSITORY / "prompts")


def test_the_plan_prices_the_eligible_share_of_the_source(tmp_path: Path) -> None:
    paths = study(tmp_path, "requires: {math: 3 quantities}\n")
    before = plan(read_lineage(paths)).as_json()["stages"]["synthetic"]
    assert before["documents"] == 40
    assert any("unknown until the source exists, all are counted" in line for line in before["basis"])
    corpus = read_lineage(paths).source("mine")

    def make(folder: Path) -> Contents:
        shards = write_corpus(folder, [[(str(n), NUMBERS if n % 16 == 0 else PLAIN)] for n in range(40)])
        files = sorted(shards.glob("shard-*.parquet"))
        return Contents(files=files, facts={"rows": 40, "tokens": 800, "text_bytes": 3200, "order": "a"})

    corpus.materialize(make)
    after = plan(read_lineage(paths)).as_json()["stages"]["synthetic"]
    assert any("eligible (3 quantities): 60.0% of 5 sampled documents" in line for line in after["basis"])
    assert after["documents"] == 24
    assert after["output_tokens"] == pytest.approx(0.6 * before["output_tokens"], rel=0.01)


def test_a_rule_for_a_prompt_that_the_study_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"requires.*table.*math"):
        read_lineage(study(tmp_path, "requires: {table: 3 quantities}\n"))
    with pytest.raises(StudyError, match="write for example '3 quantities'"):
        read_lineage(study(tmp_path, "requires: {math: some numbers}\n"))
