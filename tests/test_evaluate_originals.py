"""The original datasets: rows in their own columns, as local copies and through the hub's library.

The rows are hand-made in the layout that the datasets' cards give; the folders look as on the hub.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finephrase_dagster.evaluate.reading import EMBEDDED_ITEMS, HUB, ItemsError, row_source
from finephrase_dagster.evaluate.selection import Selection, select
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.evaluate.tasks.mmlu_redux import SUBJECTS

Rows = list[dict[str, Any]]

LETTERS = {"text": ["a stone", "rain", "dry air", "fire"], "label": ["A", "B", "C", "D"]}


def arc(index: int) -> dict[str, Any]:
    return {"id": f"Mercury_{index}", "question": f"what wets field {index}?", "choices": LETTERS, "answerKey": "B"}


def hellaswag(index: int) -> dict[str, Any]:
    return {
        "ind": index,
        "activity_label": "Home and Garden",
        "ctx_a": f"[header] How to paint fence {index} [title] Clean it. [step] Use soap.",
        "ctx_b": "",
        "ctx": f"[header] How to paint fence {index} [title] Clean it. [step] Use soap.",
        "endings": ["Eat the soap.", "Rinse it well. [substeps] Let it dry.", "Sleep.", "Sing."],
        "source_id": f"wikihow~{index}",
        "split": "val",
        "split_type": "zeroshot",
        "label": "1",
    }


def mmlu(index: int) -> dict[str, Any]:
    return {
        "question": f"How many legs have {index} cats?",
        "choices": ["None.", "Two each.", "Four each.", "Six each."],
        "answer": 2,
        "error_type": "ok",
        "source": "https://example.org",
        "correct_answer": None,
        "potential_reason": None,
    }


def xcsqa(index: int) -> dict[str, Any]:
    choices = {"label": ["A", "B", "C", "D", "E"], "text": ["bank", "tree", "cloud", "shoe", "lamp"]}
    return {
        "id": f"{index:016x}",
        "lang": "en",
        "question": {"stem": f"where do you put {index} coins?", "choices": choices},
        "answerKey": "A",
    }


def squad(index: int) -> dict[str, Any]:
    return {
        "id": f"56be{index}",
        "title": "Rivers",
        "context": f"The river is {index} miles long and rises in the hills.",
        "question": "Where does the river rise?",
        "answers": {"text": ["in the hills", "the hills", "in the hills"], "answer_start": [33, 36, 33]},
    }


def openbookqa(index: int) -> dict[str, Any]:
    return {"id": f"7-{index}", "question_stem": f"Field {index} is wet after", "choices": LETTERS, "answerKey": "B"}


def winogrande(index: int) -> dict[str, Any]:
    sentence = f"The cup did not fit in box {index} because the _ was too small."
    return {"sentence": sentence, "option1": "cup", "option2": "box", "answer": "2"}


def piqa(index: int) -> dict[str, Any]:
    return {"goal": f"To dry {index} towels,", "sol1": "hang them up.", "sol2": "wet them.", "label": 0}


def gsm8k(index: int) -> dict[str, Any]:
    answer = f"He has 3 and {index}, so 3 + {index} = <<3+{index}={3 + index}>>{3 + index}.\n#### {3 + index}"
    return {"question": f"Tom has 3 nuts and finds {index}. How many has he?", "answer": answer}


def drop(index: int) -> dict[str, Any]:
    return {
        "section_id": "nfl_1",
        "query_id": f"query-{index}",
        "passage": f"The home team won {index} games in May 1990.",
        "question": "When did the home team win?",
        "answer": {
            "number": "",
            "date": {"day": "", "month": "May", "year": "1990"},
            "spans": [],
            "worker_id": "",
            "hit_id": "",
        },
        "validated_answers": {
            "number": [""],
            "date": [{"day": "", "month": "", "year": "1990"}],
            "spans": [[]],
            "worker_id": [""],
            "hit_id": [""],
        },
    }


def wikitablequestions(index: int) -> dict[str, Any]:
    table = f"| Year | Winner |\n| --- | --- |\n| {1900 + index} | Norway |\n| {1901 + index} | Peru |"
    return {"question": "which teams won?", "answers": ["Norway", "Peru"], "table_md": table}


def treb(index: int) -> dict[str, Any]:
    return {
        "id": f"table_retrieval|{index}",
        "file_path": [f"{index}.csv"],
        "instruction": "Read the table.",
        "question": "who scored most?",
        "answer": "Mia",
        "title": ["Scores"],
        "columnslable": [1],
        "Table_markdown": [f"| Name | Score |\n| --- | --- |\n| Mia | {index + 9} |\n| Rex | 2 |"],
        "Table_html": ["<table></table>"],
    }


MAKERS: Mapping[str, Any] = {
    "arc_cf:easy": arc,
    "hellaswag_cf": hellaswag,
    "mmlu_redux_cf": mmlu,
    "xcsqa_cf": xcsqa,
    "squad_v2": squad,
    "openbookqa_cf": openbookqa,
    "winogrande_cf": winogrande,
    "piqa_cf": piqa,
    "gsm8k": gsm8k,
    "drop": drop,
    "wikitablequestions": wikitablequestions,
    "treb_qa": treb,
    "arc_cf:challenge": arc,
}
ASKED = {
    "arc_cf:easy": ("Question: What wets field 7?\nAnswer:", ("Rain",)),
    "hellaswag_cf": ("How to paint fence 7. Clean it. Use soap.", ("Rinse it well. Let it dry.",)),
    "mmlu_redux_cf": ("Question: How many legs have 7 cats?\nAnswer:", ("Four each.",)),
    "xcsqa_cf": ("Question: Where do you put 7 coins?\nAnswer:", ("Bank",)),
    "squad_v2": (
        "The river is 7 miles long and rises in the hills.\nQuestion: Where does the river rise?\nAnswer:",
        ("In the hills", "The hills"),
    ),
    "openbookqa_cf": ("Question: Field 7 is wet after\nAnswer:", ("Rain",)),
    "winogrande_cf": ("The cup did not fit in box 7 because the", ("box was too small.",)),
    "piqa_cf": ("Question: To dry 7 towels,\nAnswer:", ("Hang them up.",)),
    "gsm8k": ("Question: Tom has 3 nuts and finds 7. How many has he?\nAnswer:", ("10",)),
    "drop": (
        "The home team won 7 games in May 1990.\nQuestion: When did the home team win?\nAnswer:",
        ("May 1990",),
    ),
    "wikitablequestions": (
        "| Year | Winner |\n| --- | --- |\n| 1907 | Norway |\n| 1908 | Peru |\nQuestion: Which teams won?\nAnswer:",
        ("Norway", "Peru"),
    ),
    "treb_qa": (
        "| Name | Score |\n| --- | --- |\n| Mia | 16 |\n| Rex | 2 |\nQuestion: Who scored most?\nAnswer:",
        ("Mia",),
    ),
    "arc_cf:challenge": ("Question: What wets field 7?\nAnswer:", ("Rain",)),
}


def write_copy(folder: Path, task: str, *, form: str = "parquet", count: int = 12) -> Path:
    """A copy of a task's original with `count` rows a split, with the hub's names, and its README."""
    benchmark = benchmarks()[task]
    home = folder / benchmark.folder
    configurations = []
    for subset in benchmark.subsets:
        files = []
        splits = {benchmark.few_shot_split: 100, benchmark.evaluation_split: 0}
        for split, offset in splits.items():
            if split is None:
                continue
            path = home / subset / f"{split}-00000-of-00001.{form}"
            write_rows(path, [MAKERS[task](offset + index) for index in range(count)])
            files.append({"split": split, "path": str(path.relative_to(home))})
        configurations.append({"config_name": subset, "data_files": files})
    (home / "README.md").write_text(f"---\nconfigs: {json.dumps(configurations)}\n---\n", encoding="utf-8")
    return folder


def write_rows(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def selection(task: str, items: Path | str, *, samples: int = 10_000, shots: int = 3) -> Selection:
    return select(row_source(task, str(items)), samples=samples, shots=shots)


def asked(selected: Selection) -> dict[str, tuple[str, ...]]:
    return {item.row.prompt(): item.row.golds() for item in selected.items}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("task", benchmarks())
def test_a_local_copy_is_read_in_its_own_columns(tmp_path: Path, task: str, form: str) -> None:
    selected = selection(task, write_copy(tmp_path, task, form=form))
    assert len(selected.items) == 12 * len(benchmarks()[task].subsets)
    prompt, golds = ASKED[task]
    assert asked(selected)[prompt] == golds
    for item in selected.items:
        examples = selected.examples_of(item)
        assert len(examples) == 3
        assert item.digest not in [example.digest for example in examples]
        assert {example.subset for example in examples} == {item.subset}
        if benchmarks()[task].few_shot_split:
            assert not {example.row.prompt() for example in examples} & set(asked(selected))


@pytest.mark.parametrize("task", [task for task in benchmarks() if task != "mmlu_redux_cf"])
def test_the_hub_gives_what_a_copy_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    import datasets

    copy = write_copy(tmp_path / "copy", task)
    known = benchmarks()[task]
    assert known.hub.count("/") == 1
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setitem(benchmarks(), task, replace(known, hub=str(copy / known.folder)))
    assert selection(task, HUB) == selection(task, copy)


def test_a_dataset_that_cannot_be_loaded_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    known = benchmarks()["piqa_cf"]
    monkeypatch.setitem(benchmarks(), "piqa_cf", replace(known, hub="nobody/nothing"))
    with pytest.raises(
        ItemsError, match=r"task piqa_cf: dataset nobody/nothing@refs/convert/parquet, .*Go online once"
    ):
        selection("piqa_cf", HUB)


def test_each_row_source_is_the_original_on_the_hub_or_the_folder() -> None:
    local = row_source("hellaswag_cf", "embedded")
    assert local.repository == str(EMBEDDED_ITEMS / "hellaswag")
    assert (local.evaluation_split, local.few_shot_split, local.revision) == ("test", "train", None)
    hub = row_source("hellaswag_cf", HUB)
    assert (hub.repository, hub.subsets, hub.revision) == ("Rowan/hellaswag", ("default",), "main")
    assert (hub.evaluation_split, hub.few_shot_split) == ("validation", "train")
    xcsqa = row_source("xcsqa_cf", HUB)
    assert (xcsqa.subsets, xcsqa.few_shot_split) == (("X-CSQA-en",), "validation")
    assert "virology" in row_source("mmlu_redux_cf", HUB).subsets


def test_the_choice_of_items_does_not_depend_on_the_order_or_the_number_of_files(tmp_path: Path) -> None:
    rows = [gsm8k(index) for index in range(40)]
    train = [gsm8k(index) for index in range(100, 110)]
    write_rows(tmp_path / "one" / "gsm8k" / "main" / "test-00000-of-00001.parquet", rows)
    write_rows(tmp_path / "one" / "gsm8k" / "main" / "train-00000-of-00001.parquet", train)
    random.Random(1).shuffle(rows)
    write_rows(tmp_path / "two" / "gsm8k" / "test" / "0.parquet", rows[:13])
    write_rows(tmp_path / "two" / "gsm8k" / "test" / "1.jsonl", rows[13:])
    write_rows(tmp_path / "two" / "gsm8k" / "train" / "0.parquet", train[::-1])
    one, two = (selection("gsm8k", tmp_path / name, samples=15) for name in ("one", "two"))
    assert one == two
    assert len(one.items) == 15


def test_a_row_that_occurs_twice_is_asked_once(tmp_path: Path) -> None:
    write_copy(tmp_path, "gsm8k")
    write_rows(tmp_path / "gsm8k" / "main" / "test-00000-of-00001.parquet", [gsm8k(1), gsm8k(2), gsm8k(1)])
    assert len(selection("gsm8k", tmp_path).items) == 2


def test_the_subjects_take_turns_and_each_item_has_examples_of_its_subject(tmp_path: Path) -> None:
    selected = selection("mmlu_redux_cf", write_copy(tmp_path, "mmlu_redux_cf"), samples=100)
    counts = {subject: [item.subset for item in selected.items].count(subject) for subject in SUBJECTS}
    assert len(selected.items) == 100
    assert set(counts.values()) == {1, 2}


def test_a_missing_subject_is_an_error(tmp_path: Path) -> None:
    write_copy(tmp_path, "mmlu_redux_cf")
    (tmp_path / "mmlu_redux" / "virology").rename(tmp_path / "elsewhere")
    with pytest.raises(ItemsError, match=r"task mmlu_redux_cf: .* has no virology, and the score is .* all 57"):
        selection("mmlu_redux_cf", tmp_path)


@pytest.mark.parametrize(
    ("change", "golds"),
    [
        ({}, ("Four each.",)),
        ({"error_type": "wrong_groundtruth", "correct_answer": "1"}, ("Two each.",)),
        ({"error_type": "wrong_groundtruth", "correct_answer": "0"}, ("None.",)),
        ({"error_type": "wrong_groundtruth", "correct_answer": 3}, ("Six each.",)),
        ({"error_type": "wrong_groundtruth", "correct_answer": "D"}, ("Six each.",)),
        ({"error_type": "wrong_groundtruth", "correct_answer": "one or two"}, ()),
        ({"error_type": "wrong_groundtruth", "correct_answer": None}, ()),
        ({"error_type": "bad_question_clarity"}, ()),
        ({"error_type": "no_correct_answer"}, ()),
    ],
)
def test_the_annotators_of_mmlu_redux_decide(change: dict[str, Any], golds: tuple[str, ...]) -> None:
    assert benchmarks()["mmlu_redux_cf"].row.model_validate(mmlu(1) | change).golds() == golds


@pytest.mark.parametrize(
    ("answer", "golds"),
    [
        ({"number": "12"}, ("12",)),
        ({"spans": ["the Bears", "Smith"]}, ("The Bears", "Smith")),
        ({"date": {"day": "3", "month": "May", "year": ""}}, ("3 May",)),
        ({"date": None, "number": None}, ()),
    ],
)
def test_an_answer_of_drop_is_a_number_spans_or_a_date(answer: dict[str, Any], golds: tuple[str, ...]) -> None:
    empty = {"number": "", "spans": [], "date": {"day": "", "month": "", "year": ""}}
    assert benchmarks()["drop"].row.model_validate(drop(1) | {"answer": empty | answer}).golds() == golds


def test_rows_that_the_published_study_left_out_are_left_out() -> None:
    two_tables = treb(1) | {"Table_markdown": ["| a |", "| b |"]}
    assert benchmarks()["treb_qa"].row.model_validate(two_tables).golds() == ()
    lost = xcsqa(1)
    lost["question"] = {"stem": "where?", "choices": {"label": ["A", "B"], "text": ["bank", " "]}}
    assert benchmarks()["xcsqa_cf"].row.model_validate(lost).golds() == ()
    unanswerable = squad(1) | {"answers": {"text": [], "answer_start": []}}
    assert benchmarks()["squad_v2"].row.model_validate(unanswerable).golds() == ()


def test_a_few_invalid_rows_of_an_original_are_skipped_and_many_are_an_error(tmp_path: Path) -> None:
    write_copy(tmp_path, "winogrande_cf")
    path = tmp_path / "winogrande" / "winogrande_xl" / "validation-00000-of-00001.parquet"
    good = [winogrande(index) for index in range(60)]
    broken = [winogrande(index) | {"sentence": f"No blank {index}."} for index in range(60)]
    write_rows(path, good[:58] + broken[:2])
    assert len(selection("winogrande_cf", tmp_path).items) == 58
    write_rows(path, good[:30] + broken[:30])
    with pytest.raises(
        ItemsError, match=r"needs exactly one blank.*; \d+ of \d+ rows are invalid, so this is not the winogr"
    ):
        selection("winogrande_cf", tmp_path)


def test_other_columns_are_an_error_that_names_one(tmp_path: Path) -> None:
    write_copy(tmp_path, "piqa_cf")
    path = tmp_path / "piqa" / "default" / "validation-00000-of-00001.parquet"
    write_rows(path, [{"goal": "To sit,", "solution0": "sit.", "label": 0}])
    with pytest.raises(ItemsError, match=r"validation-00000-of-00001.parquet, row 1: sol1: Field required"):
        selection("piqa_cf", tmp_path)


def test_a_missing_split_is_named_with_what_to_copy(tmp_path: Path) -> None:
    write_copy(tmp_path, "arc_cf:easy")
    (tmp_path / "arc_easy" / "ARC-Easy" / "validation-00000-of-00001.parquet").unlink()
    assert selection("arc_cf:easy", tmp_path, shots=0).items
    with pytest.raises(ItemsError, match=r"no Parquet or JSONL file of the split validation. Copy allenai/ai2_arc"):
        selection("arc_cf:easy", tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_copy(tmp_path, "gsm8k")
    path = tmp_path / "gsm8k" / "main" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        ItemsError, match=r"task gsm8k: .*test-00000-of-00001.parquet: cannot be read .*; replace the file"
    ):
        selection("gsm8k", tmp_path)


def test_a_task_with_fewer_items_than_shots_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ItemsError, match=r"task treb_qa: .*, default, split test, has 2 few-shot .* is 3. Write"):
        selection("treb_qa", write_copy(tmp_path, "treb_qa", count=3))
