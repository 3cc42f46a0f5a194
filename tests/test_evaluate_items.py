"""The embedded items, and what happens when items are wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.evaluate.reading import EMBEDDED_ITEMS, ItemsError, items_folder, row_source
from finephrase_dagster.evaluate.selection import BenchmarkItem, select
from finephrase_dagster.evaluate.tasks import benchmarks

ALL = 10_000
CHOICES = {"text": ["str"], "label": ["str"]}
# Columns and nesting of the originals, transcribed from their dataset cards.
SCHEMAS: dict[str, Any] = {
    "arc_cf:easy": {"id": "str", "question": "str", "choices": CHOICES, "answerKey": "str"},
    "hellaswag_cf": {
        "ind": "int",
        "activity_label": "str",
        "ctx_a": "str",
        "ctx_b": "str",
        "ctx": "str",
        "endings": ["str"],
        "source_id": "str",
        "split": "str",
        "split_type": "str",
        "label": "str",
    },
    "mmlu_redux_cf": {
        "question": "str",
        "choices": ["str"],
        "answer": "int",
        "error_type": "str",
        "source": "NoneType",
        "correct_answer": "NoneType",
        "potential_reason": "NoneType",
    },
    "xcsqa_cf": {
        "id": "str",
        "lang": "str",
        "question": {"stem": "str", "choices": CHOICES},
        "answerKey": "str",
    },
    "squad_v2": {
        "id": "str",
        "title": "str",
        "context": "str",
        "question": "str",
        "answers": {"text": ["str"], "answer_start": ["int"]},
    },
    "openbookqa_cf": {"id": "str", "question_stem": "str", "choices": CHOICES, "answerKey": "str"},
    "winogrande_cf": {"sentence": "str", "option1": "str", "option2": "str", "answer": "str"},
    "piqa_cf": {"goal": "str", "sol1": "str", "sol2": "str", "label": "int"},
    "arc_cf:challenge": {"id": "str", "question": "str", "choices": CHOICES, "answerKey": "str"},
    "gsm8k": {"question": "str", "answer": "str"},
    "drop": {
        "section_id": "str",
        "query_id": "str",
        "passage": "str",
        "question": "str",
        "answers_spans": {"spans": ["str"], "types": ["str"]},
    },
    "wikitablequestions": {
        "id": "str",
        "question": "str",
        "answers": ["str"],
        "table": {"header": ["str"], "rows": [["str"]], "name": "str"},
    },
    "treb_qa": {
        "id": "str",
        "file_path": ["str"],
        "instruction": "str",
        "question": "str",
        "answer": "str",
        "title": ["str"],
        "columnslable": ["int"],
        "Table_markdown": ["str"],
        "Table_html": ["str"],
        "number_answer": "str or float",
    },
}
SCHEMA_OF_EMPTY_LIST = "empty"


def shape(value: Any) -> Any:
    """The types of a JSON value, in the notation of SCHEMAS."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        shapes = [shape(item) for item in value]
        assert all(item == shapes[0] for item in shapes)
        return shapes[:1] or SCHEMA_OF_EMPTY_LIST
    return type(value).__name__


def fits(value: Any, schema: Any) -> bool:
    if isinstance(schema, dict):
        return (
            isinstance(value, dict) and list(value) == list(schema) and all(fits(value[k], schema[k]) for k in schema)
        )
    if value == SCHEMA_OF_EMPTY_LIST:
        return isinstance(schema, list)
    if schema == "str or float":
        return value in ("str", "float")
    return bool(value == schema)


def lines(task: str, split: str) -> list[dict[str, Any]]:
    path = EMBEDDED_ITEMS / benchmarks()[task].folder / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def selected(task: str, items: Path | str = "embedded", *, shots: int = 0) -> tuple[BenchmarkItem, ...]:
    """Return all items of a task that are scored."""
    return select(row_source(task, str(items)), samples=ALL, shots=shots).items


def test_each_benchmark_has_a_folder_of_embedded_items() -> None:
    assert {path.name for path in EMBEDDED_ITEMS.iterdir()} == {b.folder for b in benchmarks().values()}


@pytest.mark.parametrize("task", benchmarks())
@pytest.mark.parametrize("split", ["train", "test"])
def test_items_have_the_schema_of_the_original(task: str, split: str) -> None:
    for line in lines(task, split):
        assert fits(shape(line), SCHEMAS[task]), line


@pytest.mark.parametrize("task", benchmarks())
def test_there_are_enough_items_and_none_repeats_another_or_an_example(task: str) -> None:
    selection = select(row_source(task, "embedded"), samples=ALL, shots=5)
    items = [item.row for item in selection.items]
    examples = [item.row for item in selection.examples[""]]
    assert len(items) >= 24
    assert len(examples) >= 5
    both = [*examples, *items]
    assert len({item.key() for item in both}) == len(both)
    assert len({item.prompt() for item in both}) == len(both)


def test_correct_choices_occur_at_every_position() -> None:
    places = [line["choices"]["label"].index(line["answerKey"]) for line in lines("arc_cf:easy", "test")]
    assert set(places) == {0, 1, 2, 3}
    hard = [line["choices"]["label"].index(line["answerKey"]) for line in lines("arc_cf:challenge", "test")]
    assert set(hard) == {0, 1, 2, 3}
    assert {line["label"] for line in lines("piqa_cf", "test")} == {0, 1}
    assert {line["answer"] for line in lines("winogrande_cf", "test")} == {"1", "2"}
    for task in ("arc_cf:easy", "arc_cf:challenge", "openbookqa_cf"):
        assert all(len(set(line["choices"]["text"])) == 4 for line in lines(task, "test"))


def test_squad_answers_are_at_their_stated_position_in_the_context() -> None:
    for line in lines("squad_v2", "test"):
        for text, start in zip(line["answers"]["text"], line["answers"]["answer_start"], strict=True):
            assert line["context"][start : start + len(text)] == text


def test_a_question_without_an_answer_is_not_scored() -> None:
    unanswerable = [line for line in lines("squad_v2", "test") if not line["answers"]["text"]]
    assert unanswerable
    assert len(selected("squad_v2")) == len(lines("squad_v2", "test")) - len(unanswerable)


def test_worked_sums_are_correct() -> None:
    for line in lines("gsm8k", "test") + lines("gsm8k", "train"):
        for part in line["answer"].split("<<")[1:]:
            sum_, result = part.split(">>")[0].split("=")
            assert eval(sum_, {"__builtins__": {}}) == float(result), line
        assert result == line["answer"].split("#### ")[1]


@pytest.mark.parametrize(
    ("task", "prompt", "golds"),
    [
        ("gsm8k", "Question: Paul has 9 marbles and finds 4 more. How many has he?\nAnswer:", ("13",)),
        (
            "wikitablequestions",
            "| Name | Animal | Age |\n| --- | --- | --- |\n| Rex | dog | 6 |\n| Mia | cat | 3 |\n"
            "Question: What kind of animal is mia?\nAnswer:",
            ("Cat",),
        ),
        ("winogrande_cf", "The pillow was softer than the stone, so she rested her head on the",
         ("pillow at night.",)),
        (
            "squad_v2",
            "A red fox hears a mouse under the snow and leaps high before it dives in with its "
            "paws.\nQuestion: What does the fox hear under the snow?\nAnswer:",
            ("A mouse", "Mouse"),
        ),
        ("xcsqa_cf", "Question: What do you need to write on a blackboard?\nAnswer:", ("Chalk",)),
        (
            "hellaswag_cf",
            "The boy spreads butter on two slices of bread. He",
            ("adds cheese and lettuce and presses the slices together.",),
        ),
    ],
)  # fmt: skip
def test_prompts_and_answers_have_the_cloze_form(task: str, prompt: str, golds: tuple[str, ...]) -> None:
    row = benchmarks()[task].row.model_validate(lines(task, "train")[0])
    assert (row.prompt(), row.golds()) == (prompt, golds)


def test_each_of_several_answers_to_a_table_question_counts() -> None:
    line = next(line for line in lines("wikitablequestions", "test") if len(line["answers"]) > 1)
    row = benchmarks()["wikitablequestions"].row.model_validate(line)
    assert row.golds() == ("Silent Harbor", "Northern Lights")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED_ITEMS, tmp_path / "items")


def test_a_missing_folder_is_named_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(ItemsError, match=r"there is no folder .*nowhere.*arc_easy"):
        items_folder(str(tmp_path / "nowhere"))


def test_a_missing_file_is_named_with_its_task(items: Path) -> None:
    shutil.rmtree(items / "piqa")
    with pytest.raises(ItemsError, match=r"task piqa_cf: .*there is no file .*piqa/test.jsonl.*ybisk/piqa"):
        selected("piqa_cf", items)
    (items / "gsm8k" / "train.jsonl").unlink()
    with pytest.raises(ItemsError, match=r"task gsm8k: there is no file .*gsm8k/train.jsonl"):
        selected("gsm8k", items, shots=3)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("arc_cf:easy", {"answerKey": "F"}, r"line 3: answerKey 'F' is not among the labels A, B, C, D"),
        ("arc_cf:easy", {"question": " "}, r"line 3: the question is empty"),
        ("arc_cf:easy", {"choices": {"text": ["a", "b"], "label": ["A"]}}, r"line 3: choices: 2 texts, 1 labels"),
        ("mmlu_redux_cf", {"answer": 4}, r"line 3: answer points at choice 4 of 4"),
        ("mmlu_redux_cf", {"answer": "2"}, r"line 3: answer: Input should be a valid integer"),
        ("piqa_cf", {"label": -1}, r"line 3: label points at choice -1 of 2"),
        ("piqa_cf", {"sol1": "", "sol2": ""}, r"line 3: a correct answer is empty"),
        ("winogrande_cf", {"sentence": "No blank."}, r"line 3: sentence needs exactly one blank"),
        ("winogrande_cf", {"answer": ""}, r"line 3: answer '' is neither '1' nor '2'"),
        ("hellaswag_cf", {"label": ""}, r"line 3: label '' is not the number of an ending"),
        ("gsm8k", {"answer": "It is 7."}, r"line 3: answer has no '####'"),
        ("drop", {"answers_spans": {"spans": [], "types": []}}, r"line 3: answers_spans.spans: "),
        (
            "wikitablequestions",
            {"table": {"header": ["a", "b"], "rows": [["1"]], "name": ""}},
            r"line 3: table: row 0 has 1 cells, the header 2",
        ),
        ("xcsqa_cf", {"question": None}, r"line 3: question: "),
    ],
)
def test_a_broken_item_is_named_with_its_line_and_field(
    items: Path, task: str, change: dict[str, Any], message: str
) -> None:
    path = items / benchmarks()[task].folder / "test.jsonl"
    rows = lines(task, "test")
    rows[2] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ItemsError, match=f"task {task}: .*test.jsonl, {message}"):
        selected(task, items)


def test_a_line_that_is_not_json_is_named(items: Path) -> None:
    path = items / "gsm8k" / "test.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"question": "Half\n', encoding="utf-8")
    with pytest.raises(ItemsError, match=r"gsm8k/test.jsonl, line 25: not valid JSON"):
        selected("gsm8k", items)


def test_an_id_that_occurs_twice_is_refused(items: Path) -> None:
    path = items / "drop" / "test.jsonl"
    first = path.read_text(encoding="utf-8").split("\n")[0]
    path.write_text(f"{first}\n{first}\n", encoding="utf-8")
    with pytest.raises(ItemsError, match=r"line 2: the id 'fp-drop-test-000' is already used in line 1"):
        selected("drop", items)


def test_an_empty_file_is_refused(items: Path) -> None:
    (items / "drop" / "test.jsonl").write_text("")
    with pytest.raises(ItemsError, match=r"task drop: .* has no rows"):
        selected("drop", items)


def test_a_file_whose_items_have_no_answer_is_refused(items: Path) -> None:
    row = next(line for line in lines("squad_v2", "test") if not line["answers"]["text"])
    (items / "squad_v2" / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(ItemsError, match=r"task squad_v2: .*, split test, has no item with an answer. Use another"):
        selected("squad_v2", items)


def test_a_line_that_is_not_an_object_is_named(items: Path) -> None:
    (items / "gsm8k" / "test.jsonl").write_text("[1, 2]\n", encoding="utf-8")
    with pytest.raises(
        ItemsError, match=r"gsm8k/test.jsonl: no line is a JSON object; row 1 is not a JSON object but a list"
    ):
        selected("gsm8k", items)


def test_fewer_examples_than_shots_are_refused_with_the_remedy(items: Path) -> None:
    with pytest.raises(ItemsError, match=r"task piqa_cf: .* has 6 few-shot examples, .*shots is 7. Write more, or"):
        selected("piqa_cf", items, shots=7)


def test_the_selection_does_not_depend_on_the_order_of_the_file(items: Path) -> None:
    before = select(row_source("gsm8k", str(items)), samples=7, shots=3)
    for name in ("test", "train"):
        path = items / "gsm8k" / f"{name}.jsonl"
        rows = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(reversed(rows)) + "\n", encoding="utf-8")
    assert select(row_source("gsm8k", str(items)), samples=7, shots=3) == before


@given(st.integers(1, 30), st.integers(1, 30))
def test_fewer_samples_are_the_first_of_more(one: int, two: int) -> None:
    few, many = (select(row_source("gsm8k", "embedded"), samples=count, shots=0).items for count in sorted((one, two)))
    assert many[: len(few)] == few
    assert len(few) == min(one, two, 24)


def test_no_item_is_its_own_example_even_where_the_files_share_it(items: Path) -> None:
    path = items / "piqa" / "train.jsonl"
    path.write_text((items / "piqa" / "test.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    selection = select(row_source("piqa_cf", str(items)), samples=ALL, shots=3)
    for item in selection.items:
        examples = selection.examples_of(item)
        assert len(examples) == 3
        assert item.row.prompt() not in [example.row.prompt() for example in examples]


def test_a_line_separator_inside_a_string_does_not_end_the_item(items: Path) -> None:
    path = items / "gsm8k" / "test.jsonl"
    question = "A rope\u2028of 6 meters is halved. How long is a half?"
    row = json.dumps({"question": question, "answer": "#### 3"}, ensure_ascii=False)
    path.write_text(row + "\n", encoding="utf-8")
    assert [item.row.prompt() for item in selected("gsm8k", items)] == [f"Question: {question}\nAnswer:"]


def test_listing_benchmarks_imports_no_heavy_library() -> None:
    program = (
        "import sys; from finephrase_dagster.evaluate import categories, evaluation, scores, selection, tasks; "
        "tasks.benchmarks(); "
        "print([name for name in ('torch', 'transformers', 'lighteval', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
