"""Previews: a few rows of an artifact as Markdown, for Dagster's asset pages and MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

CHARACTERS = 600


def documents(folder: Path, rows: int = 3) -> str:
    """The first documents of a corpus."""
    found = duckdb.execute(
        "SELECT id, text FROM read_parquet(?) ORDER BY id LIMIT ?", [str(folder / "shard-*.parquet"), rows]
    ).fetchall()
    return "\n\n".join(f"**{id_}**\n\n{_quoted(text)}" for id_, text in found)


def completions(folder: Path, corpus: Path, rows: int = 3) -> str:
    """A few documents of a corpus, each with what was made of it."""
    found = duckdb.execute(
        """
        SELECT part.id, corpus.text, part.text FROM read_parquet(?) AS part
        JOIN read_parquet(?) AS corpus ON corpus.id = part.id ORDER BY part.id LIMIT ?
        """,
        [str(folder / "part-*.parquet"), str(corpus / "shard-*.parquet"), rows],
    ).fetchall()
    return "\n\n".join(f"**{id_}**\n\n{_quoted(source)}\n\nbecame\n\n{_quoted(made)}" for id_, source, made in found)


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
