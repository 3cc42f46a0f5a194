"""Previews: a few rows of an artifact, for Dagster's asset pages and MLflow.

Dagster shows Markdown of fewer than 1,000 characters as it is, and a link in place of a longer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import duckdb
import pyarrow.parquet as pq

from finephrase_dagster.audit.gate import FailingRow
from finephrase_dagster.orchestration.events import quoted

CHARACTERS = 600
GLANCE = 400  # of each text where one document is to be seen without a click
SHARDS = "shard-*.parquet"


class Pair(NamedTuple):
    """A document and its completion."""

    id: str
    document: str
    completion: str


def documents(folder: Path, rows: int = 3, characters: int = CHARACTERS) -> str:
    """The first documents of a corpus."""
    first = sorted(folder.glob(SHARDS))[:1]
    found = duckdb.execute("SELECT id, text FROM read_parquet(?) LIMIT ?", [[str(file) for file in first], rows])
    return "\n\n".join(f"**{id_}**\n\n{_quoted(text, characters)}" for id_, text in found.fetchall())


def completions(folder: Path, corpus: Path, rows: int = 3) -> list[Pair]:
    """A few documents of a corpus, each with what was made of it."""
    parts = sorted(folder.glob("part-*.parquet"))[:1]
    if not parts:
        return []
    with pq.ParquetFile(parts[0]) as part:
        first = next(part.iter_batches(rows, columns=["id", "text"]), None)
    made = first.to_pylist() if first else []
    sources = _texts(corpus, tuple(row["id"] for row in made))
    return [Pair(row["id"], sources[row["id"]], row["text"]) for row in made if row["id"] in sources]


def shown(pairs: Iterable[Pair], characters: int = CHARACTERS) -> str:
    """Documents and what became of them, as Markdown; of each text so many characters."""
    return "\n\n".join(
        f"**{pair.id}**\n\n{_quoted(pair.document, characters)}\n\nbecame\n\n{_quoted(pair.completion, characters)}"
        for pair in pairs
    )


def failing(examples: Iterable[FailingRow]) -> str:
    """Rows that fail a gate, each with the reason."""
    return "\n\n".join(
        f"**{example.id}**: {example.reason}" + (f"\n\n{_quoted(example.text, CHARACTERS)}" if example.text else "")
        for example in examples
    )


@lru_cache(maxsize=8)  # the prompts of a cell show the same documents; a corpus never changes in its folder
def _texts(corpus: Path, ids: tuple[str, ...]) -> dict[str, str]:
    """The texts of some documents; shard by shard, for a corpus may be larger than anybody wants to scan."""
    found: dict[str, str] = {}
    for shard in sorted(corpus.glob(SHARDS)):
        if len(found) == len(ids):
            break
        rows = duckdb.execute(
            "SELECT id, text FROM read_parquet(?) WHERE list_contains(?, id)", [str(shard), list(ids)]
        )
        found |= dict(rows.fetchall())
    return found


def records(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows as a table of the web UI, which shows it in full whatever its length."""
    listed = [{name: _cell(value) for name, value in row.items()} for row in rows]
    kinds = {str: "string", int: "int", float: "float", bool: "bool"}
    names = dict.fromkeys(name for row in listed for name in row)
    columns = []
    for name in names:
        found = {type(row[name]) for row in listed if row.get(name) is not None}
        columns.append(dg.TableColumn(name, kinds[found.pop()] if len(found) == 1 else "string"))
    return dg.MetadataValue.table(
        [dg.TableRecord({name: row.get(name) for name in names}) for row in listed], dg.TableSchema(columns=columns)
    )


def tasks(scores: Mapping[str, Any]) -> dg.TableMetadataValue:
    """The tasks of scores, as their manifest holds them."""
    return records(
        {"task": task, "score": score["mean"], "items": score["n"]} for task, score in scores["tasks"].items()
    )


def _cell(value: object) -> str | int | float | bool | None:
    if isinstance(value, float):
        return round(value, 4)
    return value if value is None or isinstance(value, str | int) else str(value)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; floats with four digits."""
    listed = [{name: _shown(value) for name, value in row.items()} for row in rows]
    if not listed:
        return "(no rows)"
    names = list(listed[0])
    lines = [names, ["---"] * len(names), *([row.get(name, "") for name in names] for row in listed)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|")


@lru_cache(maxsize=64)  # the prompts of a cell show the same documents
def _quoted(text: str, characters: int) -> str:
    return quoted(text if len(text) <= characters else f"{text[:characters]} ...")
