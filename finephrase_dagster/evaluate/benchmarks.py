"""The twelve benchmarks: task name, rows, the folder of its items and its original on the hub.

`embedded` items are the project's own, written in the originals' schemas, so that the suite runs
offline; they measure the same skills but are not the published benchmarks, and their scores compare
with one another only. A folder of JSONL files (`<folder>/train.jsonl` for few-shot examples,
`<folder>/test.jsonl` for evaluation) takes their place by one line in the study file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finephrase_dagster.evaluate import free_form, multiple_choice
from finephrase_dagster.evaluate.row import Row
from finephrase_dagster.study.fields import EMBEDDED

EMBEDDED_ITEMS = Path(__file__).parent / "items"
FEW_SHOT_SPLIT = "train"
EVALUATION_SPLIT = "test"


class ItemsError(ValueError):
    """A task's items are missing or wrong; the message names the file, the line and the remedy."""


@dataclass(frozen=True)
class Benchmark:
    """One task.

    Attributes:
        folder: its items' folder, where the task's name would make an unwise one.
        row: the schema of its rows.
        hub: the original dataset's id.
        subset: its configuration there; None: MMLU-Redux has one a subject (the score is their mean),
            TReB has none.
        evaluation_split: the split there that is evaluated (labels of the others are not public).
        few_shot_split: the split there that examples come from; None: the evaluated one, less the item.
    """

    folder: str
    row: type[Row]
    hub: str
    subset: str | None
    evaluation_split: str
    few_shot_split: str | None


# fmt: off
BENCHMARKS: Mapping[str, Benchmark] = {
    "arc_cf:easy": Benchmark(
        "arc_easy", multiple_choice.Arc, "allenai/ai2_arc", "ARC-Easy", "test", "train"),
    "hellaswag_cf": Benchmark(
        "hellaswag", multiple_choice.HellaSwag, "Rowan/hellaswag", "default", "validation", "train"),
    "mmlu_redux_cf": Benchmark(
        "mmlu_redux", multiple_choice.MmluRedux, "edinburgh-dawg/mmlu-redux-2.0", None, "test", None),
    "xcsqa_cf": Benchmark(
        "xcsqa", multiple_choice.Xcsqa, "INK-USC/xcsr", "X-CSQA-en", "validation", None),
    "squad_v2": Benchmark(
        "squad_v2", free_form.SquadV2, "rajpurkar/squad_v2", "squad_v2", "validation", "train"),
    "openbookqa_cf": Benchmark(
        "openbookqa", multiple_choice.OpenBookQa, "allenai/openbookqa", "main", "test", "train"),
    "winogrande_cf": Benchmark(
        "winogrande", multiple_choice.Winogrande, "allenai/winogrande", "winogrande_xl", "validation", "train"),
    "piqa_cf": Benchmark(
        "piqa", multiple_choice.Piqa, "ybisk/piqa", "plain_text", "validation", "train"),
    "gsm8k": Benchmark(
        "gsm8k", free_form.Gsm8k, "openai/gsm8k", "main", "test", "train"),
    "drop": Benchmark(
        "drop", free_form.Drop, "ucinlp/drop", "default", "validation", "train"),
    "wikitablequestions": Benchmark(
        "wikitablequestions", free_form.WikiTableQuestion, "stanfordnlp/wikitablequestions",
        "random-split-1", "test", "train"),
    "treb_qa": Benchmark(
        "treb_qa", free_form.TableReasoning, "JT-LM/JIUTIAN-TReB", None, "test", None),
}
# fmt: on


def items_folder(items: str) -> Path:
    """The folder that an `evaluation.items` of a study file means.

    Raises:
        ItemsError: neither `embedded` nor a folder that is there.
    """
    folder = EMBEDDED_ITEMS if items == EMBEDDED else Path(items)
    if not folder.is_dir():
        raise ItemsError(
            f"evaluation.items: {items} is not a folder; write 'embedded', or a folder (/..., ./...) "
            f"with {', '.join(benchmark.folder for benchmark in BENCHMARKS.values())}"
        )
    return folder


def read_rows(task: str, split: str, *, items: Path) -> list[dict[str, Any]]:
    """The rows of one split of a task that have an answer to score, as the file has them.

    Raises:
        ItemsError: a missing or empty file, a line that is not JSON or not the task's schema, an id twice.
    """
    benchmark = BENCHMARKS[task]
    path = items / benchmark.folder / f"{split}.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ItemsError(
            f"task {task}: {path} is not there; it holds the items, one row of {benchmark.hub} a line"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ItemsError(f"task {task}: {path} cannot be read: {error}") from error
    found: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    # Not splitlines(): a JSON string may hold line separators other than a newline.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        where = f"task {task}: {path}, line {number}"
        row = _parsed(line, benchmark.row, where)
        if (first := seen.setdefault(row.key(), number)) != number:
            raise ItemsError(f"{where}: the item {row.key()!r} is already in line {first}; ids are unique")
        if row.golds():
            found.append(json.loads(line))
    if not found:
        raise ItemsError(f"task {task}: {path} holds no item with an answer")
    return found


def _parsed(line: str, schema: type[Row], where: str) -> Row:
    try:
        return schema.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        raise ItemsError(f"{where}: {f'{field}: ' if field else ''}{message}") from error
