"""Previews: a few rows of an artifact as Markdown, for Dagster's asset pages and MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

CHARACTERS = 600
SHARDS = "shard-*.parquet"


def documents(folder: Path, rows: int = 3) -> str:
    """The first documents of a corpus."""
    first = sorted(folder.glob(SHARDS))[:1]
    found = duckdb.execute("SELECT id, text FROM read_parquet(?) LIMIT ?", [[str(file) for file in first], rows])
    return "\n\n".join(f"**{id_}**\n\n{_quoted(text)}" for id_, text in found.fetchall())


def completions(folder: Path, corpus: Path, rows: int = 3) -> str:
    """A few documents of a corpus, each with what was made of it."""
    parts = [str(file) for file in sorted(folder.glob("part-*.parquet"))[:1]]
    made: dict[str, str] = dict(
        duckdb.execute("SELECT id, text FROM read_parquet(?) ORDER BY id LIMIT ?", [parts, rows]).fetchall()
        if parts
        else []
    )
    sources = _texts(corpus, list(made))
    return "\n\n".join(
        f"**{id_}**\n\n{_quoted(sources[id_])}\n\nbecame\n\n{_quoted(text)}"
        for id_, text in made.items()
        if id_ in sources
    )


def _texts(corpus: Path, ids: list[str]) -> dict[str, str]:
    """The texts of some documents; shard by shard, for a corpus may be larger than anybody wants to scan."""
    found: dict[str, str] = {}
    for shard in sorted(corpus.glob(SHARDS)):
        if len(found) == len(ids):
            break
        rows = duckdb.execute("SELECT id, text FROM read_parquet(?) WHERE list_contains(?, id)", [str(shard), ids])
        found |= dict(rows.fetchall())
    return found


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


def _quoted(text: str) -> str:
    cut = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} ..."
    fence = "`" * max(4, 1 + max((len(run) for run in cut.split() if set(run) == {"`"}), default=0))
    return f"{fence}text\n{cut}\n{fence}"
