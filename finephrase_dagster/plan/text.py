"""A plan as text: the rows of its table, and Markdown for the web pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finephrase_dagster.artifacts.markdown import markdown_table
from finephrase_dagster.plan.plan import Plan

COLUMNS = (
    "stage",
    "to do",
    "exists",
    "documents",
    "tokens in",
    "tokens out",
    "GPU-hours",
    "dollars",
    "wall time",
    "disk",
)


def stage_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Return a plan's stages and their total as rows of text, one cell for each of `COLUMNS`."""
    return [_cells(name, stage) for name, stage in [*figures["stages"].items(), ("total", figures["total"])]]


def plan_markdown(plan: Plan) -> str:
    """Return the stages as a Markdown table."""
    return markdown_table(COLUMNS, stage_rows(plan.as_json()))


def stale_markdown(plan: Plan, *, limit: int = 100) -> str:
    """Return the stale items and their reasons as a Markdown list."""
    stale = [planned for planned in plan.items if planned.state.status == "stale"]
    lines = [f"- `{planned.item.name}`: {'; '.join(planned.state.reasons)}" for planned in stale[:limit]]
    if len(stale) > limit:
        lines.append(f"- and {len(stale) - limit} more")
    return "\n".join(lines) or "nothing"


def _cells(name: str, stage: Mapping[str, Any]) -> list[str]:
    return [
        name,
        f"{stage['partitions']:,}",
        f"{stage['exists']['partitions']:,}" + (f" + {stage['failed']:,} failed" if stage["failed"] else ""),
        _short(stage["documents"]),
        _short(stage["input_tokens"]),
        _short(stage["output_tokens"]),
        _priced(stage, "gpu_hours", 1),
        _priced(stage, "dollars", 0),
        _marked(hours_text(stage["known"]["wall_hours"]), stage),
        bytes_text(stage["disk_bytes"]) if stage["disk_bytes"] else "-",
    ]


def _priced(stage: Mapping[str, Any], figure: str, digits: int) -> str:
    return _marked(f"{stage['known'][figure]:,.{digits}f}" if stage["known"][figure] else "-", stage)


def _marked(known: str, stage: Mapping[str, Any]) -> str:
    """Return a sum, with a question mark if it leaves out items whose cost is unknown."""
    return f"{known} + ?".removeprefix("- + ") if stage["unpriced"] else known


def _short(number: float) -> str:
    """Return a number with three digits and a letter, such as `1.36 G`."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f} " if number else "- "


def hours_text(hours: float) -> str:
    """Return hours as people read them, such as `14.5 days`, `2.5 h`, `3 min` or `20 s`."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    if 60 * hours >= 1:
        return f"{60 * hours:.0f} min"
    return f"{max(1, 3600 * hours):.0f} s" if hours else "-"


def bytes_text(size: float) -> str:
    """Return a size in bytes as people read it, such as `1.36 GB`."""
    return f"{_short(size)}B" if size else "0 B"
