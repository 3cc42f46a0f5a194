"""Select the items to evaluate and their examples by a fixed ranking that no order of files changes.

The rank of a row is a hash of the seed and the row's content. The items are the first of the ranking, so fewer samples
are a subset of more; several subsets take turns. The examples are the first of their split's ranking, the same for all
items of a subset, without those that ask the same question as the item.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from finephrase_dagster.evaluate.benchmark import BenchmarkRow
from finephrase_dagster.evaluate.reading import ItemsError, RawRow, RowSource, split_rows
from finephrase_dagster.evaluate.tasks import benchmarks

SEED = 0
TOLERATED = 0.05  # share of an original's rows that may be invalid
SPARE_EXAMPLES = 8  # beyond the shots, to replace those that ask what the item asks


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
    """A row with at least one correct answer.

    Attributes:
        subset: the benchmark's subset; "" where there are none.
        digest: the hash of the row's content, hexadecimal.
    """

    row: BenchmarkRow
    subset: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The selected items of a benchmark.

    Attributes:
        items: the items to evaluate, by rank.
        examples: candidates for few-shot examples of each subset, by rank.
    """

    items: tuple[BenchmarkItem, ...]
    examples: dict[str, tuple[BenchmarkItem, ...]]
    shots: int

    def examples_of(self, item: BenchmarkItem) -> tuple[BenchmarkItem, ...]:
        """Return the few-shot examples of an item; none asks the item's own question."""
        prompt = item.row.prompt()
        others = [example for example in self.examples[item.subset] if example.row.prompt() != prompt]
        return tuple(others[: self.shots])


def select(source: RowSource, *, samples: int, shots: int) -> Selection:
    """Select at most `samples` items of a benchmark, and their examples.

    Raises:
        ItemsError: items are missing or wrong, or there are fewer examples than shots.
    """
    ranked, pools = _rankings(source)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked.values()))
    items = tuple(itertools.islice((item for item in turns if item is not None), samples))
    examples = {}
    for subset in dict.fromkeys(item.subset for item in items):
        examples[subset] = tuple(itertools.islice(pools[subset], shots + SPARE_EXAMPLES)) if shots else ()
    selection = Selection(items=items, examples=examples, shots=shots)
    for item in items:
        if (count := len(selection.examples_of(item))) < shots:
            subset = f", {item.subset}" if item.subset else ""
            raise ItemsError(
                f"task {source.task}: {source}{subset}, split {source.few_shot_split}, has {count} few-shot examples, "
                f"but evaluation.shots is {shots}. Write more, or ask for fewer."
            )
    return selection


Rankings = dict[str, Iterator[BenchmarkItem]]


def _rankings(source: RowSource) -> tuple[Rankings, Rankings]:
    """Return the rankings of items and of examples by subset; reads a split that serves for both once."""
    ranked, pools = {}, {}
    for subset in source.subsets:
        ranking = _ranked(source, source.evaluation_split, subset)
        if source.few_shot_split == source.evaluation_split:
            ranked[subset], pools[subset] = itertools.tee(ranking)
        else:
            ranked[subset], pools[subset] = ranking, _ranked(source, source.few_shot_split, subset)
    return ranked, pools


def _ranked(source: RowSource, split: str, subset: str) -> Iterator[BenchmarkItem]:
    """Yield the items of a split that have an answer, by rank; at least one.

    Raises:
        ItemsError: one of our own rows is invalid or repeats an id; too many rows of an original are invalid; no row
            has an answer.
    """
    schema = benchmarks()[source.task].row
    rows = split_rows(source, split, subset)
    if source.is_own:
        _check_all(source.task, schema, rows)
    by_digest = {_digest(row): row for row in reversed(rows)}  # of equal rows the first
    answered = 0
    flaws: list[ItemsError] = []
    for number, digest in enumerate(sorted(by_digest, key=_rank), start=1):
        try:
            row = _parsed(source.task, schema, by_digest[digest])
        except ItemsError as flaw:
            flaws.append(flaw)
            if len(flaws) > max(TOLERATED * len(by_digest), 1):
                raise ItemsError(
                    f"{flaws[0]}; {len(flaws)} of {number} rows are invalid, so this is not the {source.task} that "
                    "evaluate/tasks describes. Use another revision or copy."
                ) from flaw
            continue
        if row.golds():
            answered += 1
            yield BenchmarkItem(row=row, subset=subset, digest=digest)
    if not answered:
        raise (
            flaws[0]
            if flaws
            else ItemsError(
                f"task {source.task}: {source}, split {split}, has no item with an answer. Use another copy."
            )
        )


def _check_all(task: str, schema: type[BenchmarkRow], rows: list[RawRow]) -> None:
    """Check that each of our own rows is valid and has its own id."""
    places: dict[str, str] = {}
    for row in rows:
        key = _parsed(task, schema, row).key()
        if key in places:
            raise ItemsError(f"task {task}: {row.where}: the id {key!r} is already used in {places[key]}. Change one.")
        places[key] = row.where.rpartition(", ")[2]


def _parsed(task: str, schema: type[BenchmarkRow], row: RawRow) -> BenchmarkRow:
    try:
        return schema.model_validate(row.fields)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        raise ItemsError(f"task {task}: {row.where}: {f'{field}: ' if field else ''}{message}") from error


def _digest(row: RawRow) -> str:
    text = json.dumps(row.fields, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _rank(digest: str) -> bytes:
    return hashlib.sha256(f"{SEED}:{digest}".encode()).digest()
