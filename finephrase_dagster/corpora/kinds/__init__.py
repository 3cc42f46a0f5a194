"""The kinds of source corpora: one file per kind, registered by being in this folder.

To add a kind, add a file `<kind>.py` that defines one subclass of `SourceSpec`, with the field
`kind: Literal["<kind>"]`. Study files, recipes, readers and web pages then know it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from finephrase_dagster.study.source import SourceSpec


def source_kinds() -> dict[str, type[SourceSpec]]:
    """Return the class of every source kind, by the kind's name in study files."""
    return dict(_source_kinds(tuple(__path__)))


@cache
def _source_kinds(folders: tuple[str, ...]) -> dict[str, type[SourceSpec]]:
    return {name: _kind_in(name) for name in sorted(module.name for module in pkgutil.iter_modules(folders))}


def _kind_in(name: str) -> type[SourceSpec]:
    module = importlib.import_module(f"{__name__}.{name}")
    defined = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, SourceSpec) and value.__module__ == module.__name__
    ]
    assert len(defined) == 1, f"{module.__file__} defines {len(defined)} subclasses of SourceSpec; it must define one"
    return defined[0]
