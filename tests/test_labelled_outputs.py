"""Real outputs of the packaged model, free, at temperatures 0.2 and 1.0, labelled by hand: what the gates make of them.

`labelled_outputs.jsonl` has 25 documents of the embedded corpora, four prompts and two temperatures. `flaws` are the
gates that a careful reader would let the row fail. `labelled_talk.jsonl` has outputs from 40 other documents and six
prompts, with all rows that talk to the user or give back their prompt, and a third of the others; only these two gates
are labelled there. `labelled_unseen.jsonl` has 64 outputs from 8 more documents that were labelled before any gate had
judged them, for `copying`, `faithfulness` and `invented_quantities`, too.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import chain

import pytest

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.corpora.document import Document
from finephrase_dagster.corpora.kinds.embedded import read_language_reference, read_package_readmes
from finephrase_dagster.study.paths import REPOSITORY

CHARACTERS = 1600  # of a document that the model was given
LABELLED = (
    "announcements",
    "arithmetic",
    "chat_markup",
    "empty_parts",
    "encoding",
    "form",
    "language",
    "loops",
    "other_script",
    "prompt_echo",
    "refusals",
    "truncated",
)
TALK = ("announcements", "prompt_echo")
RIGHT = 0.95


@cache
def judgements(file: str = "labelled_outputs.jsonl", names: tuple[str, ...] = LABELLED) -> list[tuple[str, bool, bool]]:
    """Return each judgement: the gate, whether the row has the flaw, and whether the gate says so."""
    sources, judged = source_texts(), []
    for line in (REPOSITORY / "tests" / file).read_text(encoding="utf-8").splitlines():
        labelled = json.loads(line)
        row = AuditedRow("row", labelled["text"], labelled.get("finish_reason"), sources[labelled["source"]])
        dataset = AuditedDataset(files=[], check=labelled["prompt"])
        for name in names:
            gate = gates()[name]
            settings = {**gate.defaults, **gate.forms.get(labelled["prompt"], {})}
            judged.append((name, name in labelled["flaws"], gate.measure(dataset, settings).flaw(row) is not None))
    return judged


@cache
def source_texts() -> dict[str, str]:
    """Return what the model was given of each document of the embedded corpora."""
    documents = chain(read_package_readmes(REPOSITORY / "requirements" / "cpu.txt"), read_language_reference())
    return {one.id: one.text[:CHARACTERS] for one in documents if isinstance(one, Document)}


def test_200_outputs_are_labelled() -> None:
    assert len(judgements()) == 200 * len(LABELLED)


def test_each_gate_judges_nearly_all_real_outputs_right() -> None:
    right = Counter(name for name, flawed, fails in judgements() if flawed == fails)
    assert {name: count / 200 for name, count in right.items() if count / 200 < RIGHT} == {}


def precision_and_recall(judged: list[tuple[str, bool, bool]], name: str) -> tuple[float, float]:
    hits = Counter((flawed, fails) for gate, flawed, fails in judged if gate == name)
    found = hits[True, True]
    return found / (found + hits[False, True]), found / (found + hits[True, False])


@pytest.mark.parametrize("name", ["loops", "form", "announcements", "prompt_echo"])
def test_flaws_of_real_outputs_are_found_without_false_alarms(name: str) -> None:
    assert min(precision_and_recall(judgements(), name)) >= RIGHT


@pytest.mark.parametrize("name", TALK)
def test_talk_and_echoes_of_other_real_outputs_are_found_without_false_alarms(name: str) -> None:
    assert min(precision_and_recall(judgements("labelled_talk.jsonl", TALK), name)) >= RIGHT


def test_each_gate_judges_nearly_all_outputs_right_that_were_labelled_unseen() -> None:
    judged = judgements("labelled_unseen.jsonl", (*LABELLED, "copying"))
    right = Counter(name for name, flawed, fails in judged if flawed == fails)
    assert {name: count / 64 for name, count in right.items() if count / 64 < RIGHT} == {}
