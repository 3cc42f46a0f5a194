"""Turn web text into synthetic training data, and measure whether it makes a better model.

The functions for notebooks and scripts, each loaded when it is first used:

    import finephrase_dagster as fp

    dataset = fp.rephrase_documents(["Some text."], prompt="faq", output="out", endpoint=URL, model=NAME)
    report = fp.audit_dataset("out/faq")
    scores = fp.read_scores("studies/demo.yaml").to_pandas()

See docs/python.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from finephrase_dagster.audit.audit import audit_dataset
    from finephrase_dagster.errors import FinephraseError
    from finephrase_dagster.rephrase.dataset import read_dataset
    from finephrase_dagster.rephrase.documents import rephrase_documents

__all__ = ["FinephraseError", "audit_dataset", "read_dataset", "read_scores", "rephrase_documents"]

_HOMES = {
    "FinephraseError": "errors.FinephraseError",
    "audit_dataset": "audit.audit.audit_dataset",
    "read_dataset": "rephrase.dataset.read_dataset",
    "rephrase_documents": "rephrase.documents.rephrase_documents",
}
"""Where each public name is defined. A function cannot be called after a room: `fp.audit` is the package `audit/`."""


def read_scores(study: str | Path | None = None) -> pa.Table:
    """Return the benchmark scores of a study's students as an Arrow table, one row per student run and score.

    Args:
        study: the study file; default: the one that FINEPHRASE_STUDY names, or `studies/demo.yaml`.

    Returns:
        The columns `run`, `mixture`, `student`, `data_seed`, `model_seed`, `decay_from` (null: trained from scratch),
        `kind` (`task`, `category` or `mean`), `name` (such as `gsm8k`, `GK`, `macro`), `score`, the ends `low` and
        `high` of its 95 % bootstrap interval, `n`, the items of a task, and the score by other measures and estimates:
        `bits_per_byte`, `last5` and `bits_per_byte_last5`. Runs without scores are left out.

    Example:
        >>> fp.read_scores("studies/demo.yaml").to_pandas().query("name == 'macro'")  # doctest: +SKIP
    """
    from dataclasses import replace

    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.evaluate import scores
    from finephrase_dagster.study.paths import Paths, study_path

    paths = Paths.from_environment()
    return scores.read_scores(read_lineage(replace(paths, study=study_path(study)) if study else paths))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # which takes long to import

        return version("finephrase-dagster")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].rpartition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
