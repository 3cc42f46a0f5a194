"""The gates: one per file of this folder, registry by listing it.

To add a gate, add a file that defines `GATE`. Study files, asset checks, web pages and the audit then know it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from finephrase_dagster.audit.gate import Gate


def gates() -> dict[str, Gate]:
    """Return all gates by name, in alphabetical order."""
    return _gates(tuple(__path__))


@cache
def _gates(folders: tuple[str, ...]) -> dict[str, Gate]:
    registry = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(folders)):
        gate: Gate = importlib.import_module(f"{__name__}.{name}").GATE
        assert gate.name == name, f"audit/gates/{name}.py defines the gate {gate.name!r}: name the file after its gate"
        assert "threshold" in gate.defaults, f"the gate {name!r} has no default for 'threshold'"
        registry[name] = gate
    return registry
