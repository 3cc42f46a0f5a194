"""Choosing items of the lineage graph by their names, as a person writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.errors import FinephraseError


class ItemUnknown(FinephraseError, exit_status=2):
    """A study has no item of this name."""


def find_item(graph: Mapping[str, Item], name: str) -> Item:
    """Return an item by its name.

    Raises:
        ItemUnknown: there is none; the message names similar ones.
    """
    if name not in graph:
        raise _unknown(graph, name)
    return graph[name]


def select_items(graph: Mapping[str, Item], patterns: Iterable[str]) -> set[str]:
    """Return the names of the items that patterns choose, and of everything upstream of them.

    Args:
        patterns: names of items; of assets or stages, for all items of theirs; or either with `*` and `?`.

    Raises:
        ItemUnknown: a pattern chooses nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in graph if _is_chosen(name, pattern)]
        if not found:
            raise _unknown(graph, pattern)
        chosen.update(found)
    pending = [*chosen]
    while pending:
        item = graph[pending.pop()]
        above = {*item.needs, *item.audits} - chosen
        chosen |= above
        pending += above
    return chosen


def _is_chosen(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}/") or fnmatchcase(name, pattern)


def _unknown(graph: Mapping[str, Item], name: str) -> ItemUnknown:
    ending = [other for other in graph if other.endswith(f"/{name}")]
    groups = {part for item in graph.values() for part in (item.stage, item.asset)}
    similar = ending or get_close_matches(name, [*groups, *graph], n=3, cutoff=0.5)
    advice = f"Did you mean {', '.join(similar[:5])}?" if similar else "'finephrase plan --items' lists its items."
    return ItemUnknown(f"the study has no item {name!r}. {advice}")
