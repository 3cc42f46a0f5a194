"""Markdown for web pages and README files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells that hold numbers alone are aligned to the right.

    A vertical bar in a cell is escaped, and a line break becomes a space.
    """
    listed = [[" ".join(str(cell).replace("|", "\\|").split()) for cell in row] for row in rows]
    columns = list(zip(*listed, strict=True)) or [()] * len(header)
    marks = ["---:" if any(column) and all(map(_is_figure, column)) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *listed))


def fenced(text: str) -> str:
    """Return a text as a Markdown code block, whatever it contains."""
    fence = "`" * max(4, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _is_figure(cell: str) -> bool:
    return cell in ("", "-", "?") or cell[0].isdigit()
