"""The `show` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from finephrase_dagster.artifacts.recorded import AUDIT_PAGE
from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of
from finephrase_dagster.commands.terminal import print_json

MOST_LISTED = 8  # inputs, dependants and files that are printed; --json has all

ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The item's name, as plan --items prints it.")]


def show(item: ItemArgument, study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Show one item of a study: its state and why, recipe, fingerprint, inputs, files, cost, and what depends on it.

    \b
    Examples:
      finephrase show mixtures/mixture/readmes_raw
      finephrase show synthetic/rephraser__package_readmes/faq --json
    """
    from finephrase_dagster.artifacts.description import describe
    from finephrase_dagster.catalogue import read_lineage

    found = describe(read_lineage(paths_of(study)), item)
    if as_json:
        print_json(found)
    else:
        typer.echo(described(found))


def described(found: Mapping[str, Any]) -> str:
    """Return a description for a terminal: one fact per line, then the gates of an audit or the recipe as YAML."""
    made = ", ".join(f"{name} {number}" for each in found["made_with"] or [] for name, number in each.items())
    files = [f"{file.get('path')}" for file in found["files"]]
    size = f", {found['bytes']:,} bytes" if found["bytes"] else ""
    lines = [
        f"{found['item']}: {found['state']}",
        *(f"  {reason}" for reason in found["reasons"]),
        *_fact("fingerprint", [found["fingerprint"]]),
        *_fact("version", [found["version"]]),
        *_fact("folder", [found["folder"]]),
        *_fact("made", [found["made"] and f"{found['made']}{f' with {made}' if made else ''}"]),
        *_fact("cost", [_fields(found["cost"])]),
        *_fact("figures", [_fields(found["figures"])]),
        *_fact("files", [f"{len(files)}{size}: {_some(files)}" if files else None]),
        *_fact("needs", [f"{each['item']} ({each['state']})" for each in found["needs"]]),
        *_fact("needed by", [f"{each['item']} ({each['state']})" for each in found["needed_by"]]),
    ]
    if found["gates"]:
        page = next((f"{found['folder']}/{name}" for name in files if name == AUDIT_PAGE), None)
        lines += ["gates", *_gates(found["gates"]), *_fact("page", [page]), *_fact("recipe", ["see --json"])]
    elif found["recipe"] is not None:
        lines += ["recipe", *(f"  {line}" for line in _yaml(found["recipe"]).splitlines())]
    return "\n".join(lines)


def _gates(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line per gate with its verdict, value and threshold, those that failed first."""
    lines = []
    for gate in sorted(gates, key=lambda gate: (gate["passed"], not gate["blocking"])):
        lenient = "rows left out" if gate.get("drops") else "only warns"
        verdict = "passed" if gate["passed"] else "FAILED" if gate["blocking"] else f"failed, {lenient}"
        lines.append(f"  {gate['name']:<22} {verdict:<21} {gate['value']:.4g}, {gate['bound']} {gate['threshold']:g}")
    return lines


def _fact(name: str, values: Sequence[str | None]) -> list[str]:
    """Return the lines of one fact; none if nothing is known."""
    known = [value for value in values if value]
    listed = known[:MOST_LISTED] + [f"and {len(known) - MOST_LISTED} more"] * (len(known) > MOST_LISTED)
    return [f"{name if number == 0 else '':<12} {value}" for number, value in enumerate(listed)]


def _fields(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:,.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
        if value is not None and not isinstance(value, dict)
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_LISTED]) + (
        f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    )


def _yaml(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as YAML in which the lines of a text stay lines."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(recipe, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
