"""The figures of the report: one per file of this folder, registry by listing it.

To add a figure, add a file that defines `FIGURE`. The report, the web UI and `finephrase results figure` then have it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from finephrase_dagster.results.figure import Figure


def figures() -> dict[str, Figure]:
    """Return all figures by name, in the order of the report."""
    return _figures(tuple(__path__))


@cache
def _figures(folders: tuple[str, ...]) -> dict[str, Figure]:
    names = (module.name for module in pkgutil.iter_modules(folders))
    found: dict[str, Figure] = {name: importlib.import_module(f"{__name__}.{name}").FIGURE for name in names}
    return dict(sorted(found.items(), key=lambda one: (one[1].order, one[0])))
