"""The gate `contamination`: questions and answers of the evaluation in completions and in their sources."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Measure
from finephrase_dagster.audit.gates.contamination import GATE, SHORTEST
from finephrase_dagster.evaluate.categories import UnknownTask

LONG = "A baker fills 14 trays with 12 rolls each and sells 9 of them. How many rolls does the baker still have?"
SHORT = "Which metal melts in a warm hand?"
PLAIN = "Name the bone between knee and ankle that carries most weight."
SOLUTION = "Warm the lid under hot water before you turn it once more."
FILLER = "The weather was mild. Nobody had expected so many guests, and the tables were soon full. "


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("items")
    for task, rows in {
        "gsm8k": [{"question": LONG, "answer": "14 * 12 = 168\n#### 159"}],
        "piqa": [{"goal": "Open a jar?", "sol1": SOLUTION, "sol2": "Throw it.", "label": 0}],
        "drop": [
            {"query_id": name, "passage": "A passage.", "question": question, "answers_spans": {"spans": [answer]}}
            for name, question, answer in (("1", SHORT, "Gallium"), ("2", PLAIN, "Tibia"))
        ],
    }.items():
        (folder / task).mkdir()
        (folder / task / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / task / "train.jsonl").write_text("")
    return folder


def measure(items: Path, **own: Any) -> Measure:
    chosen = {**GATE.defaults, "items": str(items), "tasks": "gsm8k,piqa_cf,drop", **own}
    return GATE.measure(AuditedDataset(files=[]), chosen)


def row(text: str, source: str | None = None, id: str = "1") -> AuditedRow:
    return AuditedRow(id, text, source_text=source)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (LONG, "gsm8k"),
        (LONG.upper().replace(",", ";"), "gsm8k"),
        ("... with 12 rolls each and sells 9 of them. How many rolls does the? No idea.", "gsm8k"),
        (f"How many rolls does the baker still have? 159. {' '.join(LONG.split()[-14:])} 159", "gsm8k"),
        (f"Q: {SHORT}\nA: It is gallium.", "drop"),
        (f"Q: {PLAIN}\nA: I do not know.", "drop"),
        (f"To open a jar: {SOLUTION.lower()}", "piqa_cf"),
    ],
)
def test_a_question_or_a_long_answer_is_found(items: Path, text: str, task: str) -> None:
    flaw = measure(items).flaw(row(FILLER + text + FILLER))
    assert f" of {task}; its source does not" in str(flaw)


@pytest.mark.parametrize(
    "text",
    [
        "159",
        "Gallium melts in a warm hand.",
        f"Q: {SHORT}\nA: Mercury.",
        " ".join(LONG.split()[:12]),
        "How many rolls does the baker still have?",
        "Open a jar?",
        FILLER * 5,
    ],
)
def test_fewer_words_than_the_rule_says_are_no_contamination(items: Path, text: str) -> None:
    assert measure(items).flaw(row(text)) is None


def test_what_rephrasing_added_is_told_from_what_the_source_contained(items: Path) -> None:
    one = measure(items)
    one.add([row(LONG, FILLER), row(FILLER, f"{FILLER} {PLAIN}"), row(f"{LONG} {SOLUTION}", LONG), row(FILLER, FILLER)])
    result = one.result()
    assert (result.value, result.failing) == (0.5, 2)
    assert result.figures["contaminated"] == {
        "any": {"output_only": 1, "source_only": 1, "both": 1},
        "drop": {"output_only": 0, "source_only": 1, "both": 0},
        "gsm8k": {"output_only": 1, "source_only": 0, "both": 1},
        "piqa_cf": {"output_only": 1, "source_only": 0, "both": 0},
    }
    assert result.examples[1].reason.endswith("; its source does too")


def naive(text: list[str], item: list[str], length: int) -> bool:
    ngrams = {tuple(item[place : place + length]) for place in range(len(item) - length + 1)}
    return any(tuple(text[place : place + length]) in ngrams for place in range(len(text) - length + 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("ab"), max_size=30), min_size=1, max_size=8),
    st.lists(st.sampled_from("ab"), min_size=12, max_size=16),
    st.integers(SHORTEST, 12),
    st.integers(0, 8),
)
def test_the_rows_are_those_of_the_definition_however_they_are_divided(
    texts: list[list[str]], item: list[str], length: int, middle: int
) -> None:
    question = (("drop", "1", item, [["z"]]),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finephrase_dagster.audit.gates.contamination._items", lambda settings: iter(question))
        first, second = (measure(Path(), words=length) for _ in range(2))
        rows = [row(" ".join(text), id=str(number)) for number, text in enumerate(texts)]
        first.add(rows[:middle])
        second.add(rows[middle:])
        first.merge(pickle.loads(pickle.dumps(second)))  # noqa: S301 - our own
        result = first.result()
        assert result.failing == sum(naive(text, item, length) for text in texts)


def test_an_unknown_task_is_refused(items: Path) -> None:
    with pytest.raises(UnknownTask, match="gsm9k"):
        measure(items, tasks="gsm9k").flaw(row(LONG))
