"""Which items are evaluated and which serve as examples: a fixed ranking, whatever the files' order.

Every row's rank is a hash of the seed and its content. The items are the first of the ranking, so a
smaller number takes a subset; where a task has several subsets they take turns. The examples are the
first of the ranking of their split, the same for all items, less the item that is asked.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finephrase_dagster.evaluate.benchmarks import BENCHMARKS
from finephrase_dagster.evaluate.reading import ItemsError, Line, Place, read_lines
from finephrase_dagster.evaluate.row import Row

SEED = 0
TOLERATED = 0.05  # share of an original's rows that may be unusable
SPARE_EXAMPLES = 8  # beyond the shots, for those that ask what the item asks


@dataclass(frozen=True, kw_only=True)
class Item:
    """A row that has an answer to score.

    Attributes:
        row: as its schema reads it.
        line: as the file has it.
        subset: the part of the task that it belongs to; "" where there are none.
        digest: the hash of the line, hexadecimal.
    """

    row: Row
    line: dict[str, Any]
    subset: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is asked.

    Attributes:
        items: to evaluate, in the order of their ranks.
        examples: by subset, those to choose from.
        shots: examples an item.
    """

    items: tuple[Item, ...]
    examples: dict[str, tuple[Item, ...]]
    shots: int

    def examples_of(self, item: Item) -> tuple[Item, ...]:
        """The examples of an item: never one that asks the same."""
        asked = item.row.prompt()
        others = [example for example in self.examples[item.subset] if example.row.prompt() != asked]
        return tuple(others[: self.shots])


def select(place: Place, *, samples: int, shots: int) -> Selection:
    """The items of a task, at most `samples` of them, and their examples.

    Raises:
        ItemsError: items that are missing or wrong, or fewer examples than shots.
    """
    ranked, pools = _rankings(place)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked.values()))
    items = tuple(itertools.islice((item for item in turns if item is not None), samples))
    examples = {}
    for subset in dict.fromkeys(item.subset for item in items):
        examples[subset] = tuple(itertools.islice(pools[subset], shots + SPARE_EXAMPLES)) if shots else ()
    selection = Selection(items=items, examples=examples, shots=shots)
    for item in items:
        if (found := len(selection.examples_of(item))) < shots:
            subset = f", {item.subset}" if item.subset else ""
            raise ItemsError(
                f"task {place.task}: {found} few-shot items in {place}{subset}, split {place.few_shot_split}, but "
                f"evaluation.shots is {shots}: write more, or ask for fewer"
            )
    return selection


def _rankings(place: Place) -> tuple[dict[str, Iterator[Item]], dict[str, Iterator[Item]]]:
    """The rankings of items and of examples by subset; a split that gives both is read once."""
    ranked, pools = {}, {}
    for subset in place.subsets:
        ranking = _ranked(place, place.evaluation_split, subset)
        if place.few_shot_split == place.evaluation_split:
            ranked[subset], pools[subset] = itertools.tee(ranking)
        else:
            ranked[subset], pools[subset] = ranking, _ranked(place, place.few_shot_split, subset)
    return ranked, pools


def _ranked(place: Place, split: str, subset: str) -> Iterator[Item]:
    """The items of a split that have an answer, by rank; at least one.

    Raises:
        ItemsError: one of our own rows is wrong or has another's id; too many of an original's are wrong;
            none has an answer.
    """
    schema = BENCHMARKS[place.task].row
    read = read_lines(place, split, subset)
    if place.own:
        _check_all(place.task, schema, read)
    lines = {_digest(line): line for line in reversed(read)}  # of equal rows the first
    found = looked_at = 0
    flaws: list[ItemsError] = []
    for digest in sorted(lines, key=_rank):
        line = lines[digest]
        looked_at += 1
        try:
            row = _parsed(place.task, schema, line)
        except ItemsError as flaw:
            flaws.append(flaw)
            if len(flaws) > max(TOLERATED * len(lines), 1):
                raise ItemsError(
                    f"{flaws[0]}; {len(flaws)} of {looked_at} rows are like that: this is not {place.task} as known "
                    "here, take another revision or copy"
                ) from flaw
            continue
        if row.golds():
            found += 1
            yield Item(row=row, line=line.row, subset=subset, digest=digest)
    if not found:
        raise (
            flaws[0]
            if flaws
            else ItemsError(
                f"task {place.task}: {place}, split {split}, holds no item with an answer; take another copy"
            )
        )


def _check_all(task: str, schema: type[Row], lines: list[Line]) -> None:
    """Refuses our own items unless each is right and has an id of its own."""
    seen: dict[str, str] = {}
    for line in lines:
        key = _parsed(task, schema, line).key()
        if key in seen:
            raise ItemsError(f"task {task}: {line.where}: the item {key!r} is already in {seen[key]}; ids are unique")
        seen[key] = line.where.rpartition(", ")[2]


def _parsed(task: str, schema: type[Row], line: Line) -> Row:
    try:
        return schema.model_validate(line.row)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        raise ItemsError(f"task {task}: {line.where}: {f'{field}: ' if field else ''}{message}") from error


def _digest(line: Line) -> str:
    text = json.dumps(line.row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _rank(digest: str) -> bytes:
    return hashlib.sha256(f"{SEED}:{digest}".encode()).digest()
