"""Real outputs of the packaged model, free, at temperatures 0.2 and 1.0, labelled by hand: what the gates make of them.

`labelled_outputs.jsonl` has 25 documents of the embedded corpora, four prompts and two temperatures. `flaws` are the
gates that a careful reader would let the row fail.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import chain

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
RIGHT = 0.95


@cache
def judgements() -> list[tuple[str, bool, bool]]:
    """Return each judgement: the gate, whether the row has the flaw, and whether the gate says so."""
    documents = chain(read_package_readmes(REPOSITORY / "requirements" / "cpu.txt"), read_language_reference())
    sources = {one.id: one.text[:CHARACTERS] for one in documents if isinstance(one, Document)}
    judged = []
    for line in (REPOSITORY / "tests" / "labelled_outputs.jsonl").read_text(encoding="utf-8").splitlines():
        labelled = json.loads(line)
        row = AuditedRow("row", labelled["text"], labelled["finish_reason"], sources[labelled["source"]])
        dataset = AuditedDataset(files=[], check=labelled["prompt"])
        for name in LABELLED:
            gate = gates()[name]
            settings = {**gate.defaults, **gate.forms.get(labelled["prompt"], {})}
            judged.append((name, name in labelled["flaws"], gate.measure(dataset, settings).flaw(row) is not None))
    return judged


def test_200_outputs_are_labelled() -> None:
    assert len(judgements()) == 200 * len(LABELLED)


def test_each_gate_judges_nearly_all_real_outputs_right() -> None:
    right = Counter(name for name, flawed, fails in judgements() if flawed == fails)
    assert {name: count / 200 for name, count in right.items() if count / 200 < RIGHT} == {}


def test_loops_and_wrong_forms_of_real_outputs_are_found_without_false_alarms() -> None:
    for name in ("loops", "form"):
        hits = Counter((flawed, fails) for gate, flawed, fails in judgements() if gate == name)
        assert hits[True, True] / (hits[True, True] + hits[False, True]) >= RIGHT, name
        assert hits[True, True] / (hits[True, True] + hits[True, False]) >= RIGHT, name
