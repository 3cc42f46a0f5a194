"""Previews: a few rows of an artifact, for Dagster's asset pages and MLflow.

Dagster shows Markdown of fewer than 1,000 characters in place, and longer Markdown behind a link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pyarrow.parquet as pq

from finephrase_dagster.audit.gate import FailingRow
from finephrase_dagster.orchestration.events import quoted

CHARACTERS = 600
GLANCE = 400  # characters per text, so that one document with its completion is shown in place
ROWS_PER_GATE = 5  # failing rows that are shown
SHARDS = "shard-*.parquet"


class Pair(NamedTuple):
    """A document and its completion."""

    id: str
    document: str
    completion: str


def documents(folder: Path, rows: int = 3, characters: int = CHARACTERS) -> str:
    """Return the first documents of a corpus as Markdown."""
    first = sorted(folder.glob(SHARDS))[:1]
    query = "SELECT id, text FROM read_parquet(?) LIMIT ?"
    texts = _select(query, [str(file) for file in first], rows)
    return "\n\n".join(f"**{id_}**\n\n{_quoted(text, characters)}" for id_, text in texts)


def completions(folder: Path, corpus: Path, rows: int = 3) -> list[Pair]:
    """Return a few documents of a corpus with their completions."""
    parts = sorted(folder.glob("part-*.parquet"))[:1]
    if not parts:
        return []
    with pq.ParquetFile(parts[0]) as part:
        first = next(part.iter_batches(rows, columns=["id", "text"]), None)
    completed = first.to_pylist() if first else []
    sources = _texts(corpus, tuple(row["id"] for row in completed))
    return [Pair(row["id"], sources[row["id"]], row["text"]) for row in completed if row["id"] in sources]


def pairs_markdown(pairs: Iterable[Pair], characters: int = CHARACTERS) -> str:
    """Return documents and their completions as Markdown, each text cut to a number of characters."""
    return "\n\n".join(
        f"**{pair.id}**\n\n{_quoted(pair.document, characters)}\n\nwas rephrased as\n\n"
        f"{_quoted(pair.completion, characters)}"
        for pair in pairs
    )


def failing(examples: Iterable[FailingRow]) -> str:
    """Return rows that fail a gate, with the reasons, as Markdown."""
    return "\n\n".join(
        f"**{example.id}**: {example.reason}" + (f"\n\n{_quoted(example.text, CHARACTERS)}" if example.text else "")
        for example in examples
    )


def failing_rows(listed: Path, dataset: Path) -> str:
    """Return the first failing rows of each gate with their texts, as Markdown.

    Args:
        listed: the Parquet file with the id, the gate and the reason of each failing row.
        dataset: the folder of the dataset.
    """
    query = "SELECT gate, id, reason FROM read_parquet(?) QUALIFY row_number() OVER (PARTITION BY gate) <= ? ORDER BY 1"
    rows = _select(query, str(listed), ROWS_PER_GATE)
    parts = [str(part) for part in dataset.glob("part-*.parquet")]
    wanted = sorted({id_ for _, id_, _ in rows})
    query = "SELECT id, text FROM read_parquet(?) WHERE list_contains(?, id)"
    texts = dict(_select(query, parts, wanted)) if parts and wanted else {}
    by_gate: dict[str, list[FailingRow]] = {}
    for gate, id_, reason in rows:
        by_gate.setdefault(gate, []).append(FailingRow(id_, reason, texts.get(id_, "")))
    return "\n\n".join(f"### {gate}\n\n{failing(examples)}" for gate, examples in by_gate.items())


@lru_cache(maxsize=8)  # the prompts of a cell show the same documents, and the folder of a corpus never changes
def _texts(corpus: Path, ids: tuple[str, ...]) -> dict[str, str]:
    """Return the texts of some documents; stops at the last of them, because a corpus may be too large to scan."""
    texts: dict[str, str] = {}
    for shard in sorted(corpus.glob(SHARDS)):
        if len(texts) == len(ids):
            break
        query = "SELECT id, text FROM read_parquet(?) WHERE list_contains(?, id)"
        texts |= dict(_select(query, str(shard), list(ids)))
    return texts


def _select(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query of Parquet files."""
    import duckdb

    return duckdb.execute(query, list(parameters)).fetchall()


def records(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return rows as a table of the web UI, which shows it in full whatever its length."""
    listed = [{name: _cell(value) for name, value in row.items()} for row in rows]
    kinds = {str: "string", int: "int", float: "float", bool: "bool"}
    names = dict.fromkeys(name for row in listed for name in row)
    columns = []
    for name in names:
        types = {type(row[name]) for row in listed if row.get(name) is not None}
        columns.append(dg.TableColumn(name, kinds[types.pop()] if len(types) == 1 else "string"))
    return dg.MetadataValue.table(
        [dg.TableRecord({name: row.get(name) for name in names}) for row in listed], dg.TableSchema(columns=columns)
    )


def components(parts: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return the components of a mixture as a table, with the columns first that a window of 1,400 pixels shows."""
    return records({**{name: part[name] for name in ("name", "share", "tokens", "epochs")}, **part} for part in parts)


def tasks(scores: Mapping[str, Any]) -> dg.TableMetadataValue:
    """Return the scores of all tasks in a manifest as a table."""
    return records(
        {"task": task, "score": score["mean"], "items": score["n"]} for task, score in scores["tasks"].items()
    )


def _cell(value: object) -> str | int | float | bool | None:
    if isinstance(value, float):
        return round(value, 4)
    return value if value is None or isinstance(value, str | int) else str(value)


@lru_cache(maxsize=64)  # the prompts of a cell show the same documents
def _quoted(text: str, characters: int) -> str:
    return quoted(text if len(text) <= characters else f"{text[:characters]} ...")
