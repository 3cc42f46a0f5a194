"""The analyses: one per file of this folder, found by listing it.

To add an analysis, add a file that defines `ANALYSIS`. It is then printed below every leaderboard.
"""

from __future__ import annotations

import importlib
import pkgutil

from finephrase_dagster.results.analysis import Analysis


def analyses() -> dict[str, Analysis]:
    """Return all analyses by name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").ANALYSIS for name in names}
