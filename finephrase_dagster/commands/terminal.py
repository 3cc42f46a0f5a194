"""What the commands print: progress and complaints on standard error, tables of results on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from finephrase_dagster.orchestration.logs import json_line, json_wanted
from finephrase_dagster.study.student import MANY_EPOCHS

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage


def clock() -> Callable[[str], None]:
    """Return a function that prints a message on standard error, with the seconds since this call."""
    started = time.monotonic()

    def log(message: str) -> None:
        line = json_line(message) if json_wanted() else f"[{time.monotonic() - started:6.1f} s] {message}"
        typer.echo(line, err=True)

    return log


def complain(message: str) -> None:
    """Print an error or a warning on standard error."""
    level = "error" if message.startswith(("error: ", "failed: ")) else "warning"
    typer.echo(json_line(message, level=level) if json_wanted() else message, err=True)


def leaderboard_text(rows: list[dict[str, Any]]) -> str:
    """The leaderboard as a table for a terminal, best first."""
    categories = list(rows[0]["categories"]) if rows else []
    names = [_name(row) for row in rows]
    width = max([24, *map(len, names)])
    head = f"{'mixture':<{width}} {'student':<10} {'macro':>7} {'± sd':>7} {'seeds':>5} {'epochs':>6} {'micro':>7}"
    lines = [head + "".join(f" {category:>6}" for category in categories)]
    for name, row in zip(names, rows, strict=True):
        figures = "".join(f" {row['categories'][category]:>6.4f}" for category in categories)
        lines.append(
            f"{name:<{width}} {row['student']:<10} {_figure(row['macro'])} {_figure(row['macro_sd'])} "
            f"{row['seeds']:>5} {row['epochs']:>6.2g} {_figure(row['micro'])}{figures}"
        )
    return "\n".join([*lines, *_notes(rows)])


def early_text(looks: list[dict[str, Any]]) -> str:
    """What scores on the way tell of the final ones; nothing where there are none."""
    if not looks:
        return ""
    lines = ["", "on the way: step, rank correlation with the final macro score, what going on with a part would cost"]
    for look in looks:
        correlation = look["rank_correlation"]
        regret = ", ".join(f"best {100 * float(part):g} %: {lost:.4f}" for part, lost in look["regret"].items())
        shown = f"{correlation:.2f}" if correlation is not None else "-"
        lines.append(f"  {look['step']:>6}  {shown:>5}  {regret}")
    return "\n".join(lines)


def _name(row: Mapping[str, Any]) -> str:
    decay = f" (decay of {row['decay_from']})" if row["decay_from"] else ""
    return f"{row['mixture']}{decay}"


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What may be compared with what, and which differences are noise."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        mix_in = tuple(row["mix_in"].items())
        groups.setdefault((row["student"], row["decay_from"], row["tokens"], mix_in), []).append(row)
    notes = []
    for (student, _, _, mix_in), alike in groups.items():
        if len(alike) < 2:
            continue
        original = ", ".join(f"{100 * share:g} % {name}" for name, share in mix_in) or "no original text"
        notes.append(f"with {original}, {student}: {', '.join(_verdict(row) for row in alike)}")
    if notes:
        notes = ["", "comparable, for they differ in their synthetic part alone:", *(f"  {note}" for note in notes)]
    noise = {row["student"]: row["noise"] for row in rows if row["noise"] is not None}
    notes += [f"noise of {student} over seeds: {sd:.4f}" for student, sd in noise.items()]
    repeated = [f"{_name(row)} {row['epochs']:.1f}" for row in rows if row["epochs"] > MANY_EPOCHS]
    if repeated:
        notes.append(f"seen more than {MANY_EPOCHS} times: {', '.join(repeated)}")
    return notes


def _verdict(row: Mapping[str, Any]) -> str:
    if row["within_noise"] is None or not row["behind"]:
        return _name(row)
    return f"{_name(row)} ({'within noise' if row['within_noise'] else 'behind'})"


def _figure(value: float | None) -> str:
    return f"{value:7.4f}" if value is not None else f"{'-':>7}"


def where_to_look(lineage: Lineage) -> str:
    return (
        "\nmacro: mean over six categories of the probability a token of the right answer gets; "
        "± sd: its standard deviation over seeds.\n"
        f"Scores, audits and manifests: {lineage.paths.warehouse} (DuckDB)\n"
        f"Datasets and checkpoints:     {lineage.paths.data}\n"
        "Lineage, checks and previews: make ui, then http://127.0.0.1:3000\n"
        "Loss curves and ablations:    make ui, then http://127.0.0.1:5000"
    )
