"""A sweep's result for people: the rows of its tables, its conclusions, and a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finephrase_dagster.artifacts.markdown import fenced, markdown_table

COLUMNS = ("setting", "tokens/s/GPU", "interval", "runs", "start", "warm-up", "cache hits", "accepted")
WIDTH = 40  # characters of the longest bar of a chart


def table_rows(tier: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the settings of a tier as rows of text, the fastest first; one cell for each of `COLUMNS`."""
    ranked = sorted(tier["settings"], key=lambda row: -(row["tokens_per_second"] or 0))
    return [
        (
            f"{'> ' if row['chosen'] else ''}{row['name']}",
            _figure(row["tokens_per_second"], "{:,.1f}") if not row["failure"] else row["failure"]["kind"],
            f"{row['low']:,.1f} to {row['high']:,.1f}" if row["low"] is not None else "-",
            str(row["runs"]),
            _figure(row["start_seconds"], "{:.1f} s"),
            _figure(row["warmup_seconds"], "{:.1f} s"),
            _figure(row["prefix_cache_hit_rate"], "{:.0%}"),
            _figure(row["speculation_acceptance"], "{:.0%}"),
        )
        for row in ranked
    ]


def conclusions(manifest: Mapping[str, Any]) -> list[str]:
    """Return what a sweep found, in sentences."""
    best, spent, saved = manifest["best"], manifest["cost"]["spent"], manifest["cost"]["saved"]
    gain = f", {manifest['speedup']:.2f} times the default" if manifest["speedup"] else ""
    lines = [f"tier {number}: {tier['why']}" for number, tier in enumerate(manifest["tiers"])]
    failures = {row["name"]: row["failure"] for tier in manifest["tiers"] for row in tier["settings"] if row["failure"]}
    lines += [f"failed ({failure['kind']}): {name}: {failure['line']}" for name, failure in failures.items()]
    lines += [f"not applicable: {one['axis']} {one['value']}: {one['reason']}" for one in manifest["not_applicable"]]
    price = f" and {saved['dollars']:,.2f} dollars" if saved["dollars"] else ""
    return [
        *lines,
        f"{spent['measurements']} measurements took {spent['seconds']:,.0f} s; halving saved {saved['measurements']} "
        f"measurements, {saved['seconds']:,.0f} s{price} against the full grid",
        f"best: {best['name']}, {best['tokens_per_second']:,.1f} tokens/s{gain}; the generator's next runs and plans "
        "use it",
    ]


def chart(tier: Mapping[str, Any]) -> str:
    """Return a bar per setting as Markdown, the fastest first."""
    rows = sorted((row["tokens_per_second"], row["name"]) for row in tier["settings"] if row["tokens_per_second"])
    width, most = max(len(name) for _, name in rows), rows[-1][0]
    lines = [f"{name:<{width}}  {'█' * round(WIDTH * one / most):<{WIDTH}}  {one:,.0f}" for one, name in reversed(rows)]
    return fenced("\n".join(lines))


def tier_markdown(tier: Mapping[str, Any]) -> str:
    """Return a tier as Markdown: why a setting was chosen, a chart, and the table."""
    return f"{tier['why']}\n\n{chart(tier)}\n\n{markdown_table(COLUMNS, table_rows(tier))}"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
