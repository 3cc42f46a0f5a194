"""The `plan` and `expand` commands: what a study would run and what it says in full, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from finephrase_dagster.plan.plan import Plan
from finephrase_dagster.study.expand import written
from finephrase_dagster.study.spec import Study

COLUMNS = (
    "stage",
    "to do",
    "there",
    "documents",
    "tokens in",
    "tokens out",
    "GPU-hours",
    "dollars",
    "wall time",
    "disk",
)


def plan_text(plan: Plan, *, every_item: bool, shown_items: int = 12) -> str:
    """A plan for a terminal: a line a stage, then what is stale and why.

    Args:
        every_item: list all items; else the stale ones, and how many others there are.
        shown_items: how many of the stale ones are listed.
    """
    figures = plan.as_json()
    rows = [COLUMNS, *(_cells(name, stage) for name, stage in _stages(figures))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [f"{figures['study']}: {figures['file']}, artifacts in {figures['data']}", ""]
    lines += ["  ".join(_aligned(row, widths)) for row in rows]
    if not figures["total"]["partitions"]:
        lines.append("\neverything is there, by today's recipes")
    if stopped := figures["total"]["stopped"]:
        lines.append(f"\n{stopped} partitions of students that were stopped early; --items lists them")
    lines.append(
        f"\n{figures['gpus']} GPU{'s' * (figures['gpus'] > 1)} at {figures['gpu_hour_dollars']:g} dollars an hour, "
        f"{100 * figures['goodput']:g} % of their time at work; stages one after another."
    )
    lines += [f"{name}: {'; '.join(stage['basis'])}" for name, stage in figures["stages"].items() if stage["basis"]]
    lines += _items(figures["items"], every_item, shown_items)
    lines += [f"warning: {warning}" for warning in plan.warnings]
    lines += [f"not priced: {what}" for what in plan.unknown]
    return "\n".join(lines)


def plan_markdown(plan: Plan) -> str:
    """The stages as a Markdown table."""
    figures = plan.as_json()
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    for name, stage in _stages(figures):
        lines.append(f"| {' | '.join(_cells(name, stage))} |")
    return "\n".join(lines)


def stale_markdown(plan: Plan, *, shown: int = 100) -> str:
    """What is stale and why, as a Markdown list."""
    stale = [planned for planned in plan.items if planned.state.status == "stale"]
    lines = [f"- `{planned.item.name}`: {'; '.join(planned.state.reasons)}" for planned in stale[:shown]]
    if len(stale) > shown:
        lines.append(f"- and {len(stale) - shown} more")
    return "\n".join(lines) or "nothing"


def expanded_text(study: Study) -> str:
    """A study with every entry in full, as a study file."""
    return yaml.safe_dump(written(study), sort_keys=False, allow_unicode=True, width=120)


def _items(items: Iterable[Mapping[str, Any]], every_item: bool, shown: int) -> list[str]:
    items = list(items)
    listed = items if every_item else [item for item in items if item["state"] == "stale"]
    if not listed:
        return []
    lines = ["", "items:" if every_item else "stale:"]
    for item in listed if every_item else listed[:shown]:
        reasons = f": {'; '.join(item['reasons'])}" if item["reasons"] else ""
        lines.append(f"  {item['name']} {item['state']}{reasons}" if every_item else f"  {item['name']}{reasons}")
    if not every_item and len(listed) > shown:
        lines.append(f"  and {len(listed) - shown} more; --items lists all")
    return lines


def _stages(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*figures["stages"].items(), ("total", figures["total"])]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, figures to the right."""
    return [
        f"{cell:>{width}}" if column else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _cells(name: str, stage: Mapping[str, Any]) -> list[str]:
    return [
        name,
        f"{stage['partitions']:,}",
        f"{stage['exists']['partitions']:,}",
        _short(stage["documents"]),
        _short(stage["input_tokens"]),
        _short(stage["output_tokens"]),
        _priced(stage, "gpu_hours", 1),
        _priced(stage, "dollars", 0),
        _duration(stage["wall_hours"]),
        f"{_short(stage['disk_bytes'])}B" if stage["disk_bytes"] else "-",
    ]


def _priced(stage: Mapping[str, Any], figure: str, digits: int) -> str:
    """A figure; with a question mark where something in it is not known."""
    said = f"{stage[figure]:,.{digits}f}" if stage[figure] else ""
    return f"{said} + ?".removeprefix(" + ") if stage["unpriced"] else said or "-"


def _short(number: float) -> str:
    """Three digits and a letter: 1.36 G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f} " if number else "- "


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{max(1, 60 * hours):.0f} min" if hours else "-"
