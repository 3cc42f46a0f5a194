"""Turn web text into synthetic training data, and measure whether it makes a better model.

The functions for notebooks and scripts, each loaded when it is first used:

    import finephrase_dagster as fp

    dataset = fp.rephrase_documents(["Some text."], prompt="faq", output="out", endpoint=URL, model=NAME)
    report = fp.audit_dataset("out/faq")

See docs/python.md.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finephrase_dagster.audit.audit import audit as audit_dataset
    from finephrase_dagster.errors import FinephraseError
    from finephrase_dagster.rephrase.dataset import read_dataset
    from finephrase_dagster.rephrase.documents import rephrase as rephrase_documents

__all__ = ["FinephraseError", "audit_dataset", "read_dataset", "rephrase_documents"]

_HOMES = {
    "FinephraseError": "errors.FinephraseError",
    "audit_dataset": "audit.audit.audit",
    "read_dataset": "rephrase.dataset.read_dataset",
    "rephrase_documents": "rephrase.documents.rephrase",
}
"""Where each public name is defined. A function cannot be called after a room: `fp.audit` is the package `audit/`."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("finephrase-dagster")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].rpartition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
